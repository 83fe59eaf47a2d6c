import { expect, test } from 'vitest';
import { parseListedConnection } from './connection-list.ts';
import { attribute, u32 } from './netlink.ts';

const NESTED = 0x8000;
const u16 = (value: number): Buffer => Buffer.of(value >> 8, value & 255);
const tuple = Buffer.concat([
  attribute(1 | NESTED, Buffer.concat([attribute(1, u32(0xc0a84002, true)), attribute(2, u32(0xc6336401, true))])),
  attribute(2 | NESTED, Buffer.concat([attribute(1, Buffer.of(6)), attribute(2, u16(40_000)), attribute(3, u16(443))])),
]);
const tcpState = attribute(4 | NESTED, attribute(1 | NESTED, Buffer.concat([attribute(1, Buffer.of(5)), attribute(2, Buffer.of(7))])));
const entry = Buffer.concat([attribute(1 | NESTED, tuple), attribute(7, u32(7440, true)), tcpState]);
const CONNECTION = { protocol: 6, source: 0xc0a84002, destination: 0xc6336401, sourcePort: 40_000, destinationPort: 443, expires: 7440 };

test('an entry of the connection table', () => {
  expect(parseListedConnection(entry)).toEqual({ ...CONNECTION, state: 'close_wait' });
  expect(parseListedConnection(entry.subarray(0, entry.length - tcpState.length))).toEqual(CONNECTION);
});

test('an entry that ends early never throws', () => {
  for (let n = 0; n < entry.length; n++) {
    const found = parseListedConnection(entry.subarray(0, n));
    if (found !== null) expect(found.source).toBe(CONNECTION.source);
  }
});
