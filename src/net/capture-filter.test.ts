import { expect, test } from 'vitest';
import { type FilterInstruction, passes } from './capture-filter.ts';

/** `tcpdump -ddd -y EN10MB FILTER`, without its first line. */
const program = (text: string): FilterInstruction[] =>
  text
    .trim()
    .split('\n')
    .map((line) => {
      const [code, jumpTrue, jumpFalse, k] = line.trim().split(' ').map(Number) as [number, number, number, number];
      return { code, jumpTrue, jumpFalse, k };
    });

/** tcp and dst port 80 (IPv4, unfragmented, or IPv6) */
const HTTP = program(`
  40 0 0 12
  21 0 4 34525
  48 0 0 20
  21 0 11 6
  40 0 0 56
  21 8 9 80
  21 0 8 2048
  48 0 0 23
  21 0 6 6
  40 0 0 20
  69 4 0 8191
  177 0 0 14
  72 0 0 16
  21 0 1 80
  6 0 0 262144
  6 0 0 0`);

/** An IPv4 TCP segment from 192.168.64.2:40000 to 192.0.2.1:`port`, with an IP header of `words` 32-bit words. */
function segment(port: number, words = 5, fragment = 0): Uint8Array {
  const f = new Uint8Array(14 + words * 4 + 20);
  const v = new DataView(f.buffer);
  v.setUint16(12, 0x0800);
  v.setUint8(14, 0x40 | words);
  v.setUint16(20, fragment);
  v.setUint8(23, 6);
  v.setUint16(14 + words * 4, 40_000);
  v.setUint16(14 + words * 4 + 2, port);
  return f;
}

test('a filter without instructions matches everything', () => expect(passes([], new Uint8Array(0))).toBe(true));

test('B93: tcp dst port 80 as tcpdump compiles it', () => {
  expect(passes(HTTP, segment(80))).toBe(true);
  expect(passes(HTTP, segment(80, 15)), 'header with options').toBe(true);
  expect(passes(HTTP, segment(81))).toBe(false);
  expect(passes(HTTP, segment(80, 5, 100)), 'a later fragment has no ports').toBe(false);
  const udp = segment(80);
  udp[23] = 17;
  expect(passes(HTTP, udp)).toBe(false);
});

test('a load beyond the end of the frame does not match', () => {
  const whole = segment(80);
  for (let n = 0; n < 38; n++) expect(passes(HTTP, whole.subarray(0, n)), `${n} bytes`).toBe(false);
});

test('arithmetic, memory, length and register moves', () => {
  // len; A -> M[3]; X = M[3]; A = 5; A = A * X; A = A - 1; X = A; A = X; A >= 5 * 10 - 1 ?
  const p = program(`
    128 0 0 0
    2 0 0 3
    97 0 0 3
    0 0 0 5
    44 0 0 0
    20 0 0 1
    7 0 0 0
    135 0 0 0
    53 0 1 49
    6 0 0 1
    6 0 0 0`);
  expect(passes(p, new Uint8Array(10))).toBe(true);
  expect(passes(p, new Uint8Array(9))).toBe(false);
});

test('a division by zero, an unknown instruction and a missing return do not match', () => {
  expect(passes(program('52 0 0 0\n6 0 0 1'), new Uint8Array(1))).toBe(false);
  expect(passes(program('5 0 0 100'), new Uint8Array(1))).toBe(false);
  expect(passes(program('245 0 0 0'), new Uint8Array(1))).toBe(false);
});
