import { describe, expect, test } from 'vitest';
import { outsideFrame } from './capture.ts';

const MAC = 0x564545000001;
const frame = (hex: string) => ({ time: 1n, sentByHost: false, data: Uint8Array.from(Buffer.from(hex, 'hex')), length: hex.length / 2 });

describe('outside of a translated card', () => {
  test('B93: its own frames are outbound, those to it and to everybody inbound', () => {
    expect(outsideFrame(frame('5a454500400156454500000108060001'), MAC)).toMatchObject({ outbound: true });
    expect(outsideFrame(frame('5645450000015a454500400108060001'), MAC)).toMatchObject({ outbound: false });
    expect(outsideFrame(frame('ffffffffffff5a454500400108060001'), MAC)).toMatchObject({ outbound: false });
    expect(outsideFrame(frame('ffffffffffff56454500000108060001'), MAC)).toMatchObject({ outbound: true });
  });
  test('B93: frames between others, and what is no frame, are not its own', () => {
    expect(outsideFrame(frame('5645450000025a454500400108060001'), MAC)).toBeNull();
    expect(outsideFrame(frame('ffffffffff'), MAC)).toBeNull();
  });
});
