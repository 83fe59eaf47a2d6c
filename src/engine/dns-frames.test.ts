import { expect, test } from 'vitest';
import { DnsFrames, framed } from './dns-frames.ts';

test('messages are the same however the stream is split (RFC 7766, 8)', () => {
  const messages = [Uint8Array.of(1, 2, 3), new Uint8Array(0), new Uint8Array(300).fill(7), Uint8Array.of(9)];
  const stream = Buffer.concat(messages.map(framed));
  for (let at = 0; at <= stream.length; at++) {
    const frames = new DnsFrames();
    const found: Uint8Array[] = [];
    for (const chunk of [stream.subarray(0, at), stream.subarray(at)]) {
      if (chunk.length > 0) frames.push(chunk);
      for (let m = frames.next(); m; m = frames.next()) found.push(m);
    }
    expect(found).toEqual(messages);
  }
  const bytewise = new DnsFrames();
  const found: Uint8Array[] = [];
  for (const byte of stream) {
    bytewise.push(Buffer.of(byte));
    for (let m = bytewise.next(); m; m = bytewise.next()) found.push(m);
  }
  expect(found).toEqual(messages);
});
