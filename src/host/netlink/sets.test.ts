import { expect, test } from 'vitest';
import { attribute } from './netlink.ts';
import { parseElements } from './sets.ts';

const NESTED = 0x8000;
const IPV4 = 7;
const ETHERNET = 9;
const INTERFACE = 41;
const INTEGER = 4;
const and = (a: number, b: number): number => (a << 6) | b;

function number64(value: number): Buffer {
  const b = Buffer.alloc(8);
  b.writeBigUInt64BE(BigInt(value));
  return b;
}

function element(key: Buffer, ...more: Buffer[]): Buffer {
  return attribute(1 | NESTED, Buffer.concat([attribute(1 | NESTED, attribute(1, key)), ...more]));
}

const list = (...elements: Buffer[]): Buffer => Buffer.concat([attribute(1, Buffer.from('anka\0')), attribute(3 | NESTED, Buffer.concat(elements))]);
const TAP = Buffer.from('tap1'.padEnd(16, '\0'));
const ADDRESS = Buffer.of(192, 168, 64, 2);

test('keys are given in parts as nft reads them, and whole seconds until they expire', () => {
  const key = Buffer.concat([TAP, ADDRESS]);
  expect(parseElements(list(element(key, attribute(5, number64(2999)))), and(INTERFACE, IPV4))).toEqual([{ parts: ['tap1', '192.168.64.2'], key, expires: 2 }]);
});

test('an Ethernet address is padded to eight bytes in a concatenation only', () => {
  const mac = Buffer.of(0x56, 0x45, 0x45, 0, 0, 1);
  expect(parseElements(list(element(mac)), ETHERNET)).toEqual([{ parts: ['56:45:45:00:00:01'], key: mac }]);
  const both = Buffer.concat([mac, Buffer.alloc(2), ADDRESS]);
  expect(parseElements(list(element(both)), and(ETHERNET, IPV4))).toMatchObject([{ parts: ['56:45:45:00:00:01', '192.168.64.2'] }]);
});

test('of other types, the rest of the key is a number', () => {
  const key = Buffer.concat([TAP, Buffer.from('fe800000000000000000000000000001', 'hex')]);
  expect(parseElements(list(element(key)), and(INTERFACE, INTEGER))).toMatchObject([{ parts: ['tap1', '0xfe800000000000000000000000000001'] }]);
});

test('an element’s counter gives its packets', () => {
  const data = Buffer.concat([attribute(1, number64(1500)), attribute(2, number64(3))]);
  const counter = attribute(7 | NESTED, Buffer.concat([attribute(1, Buffer.from('counter\0')), attribute(2 | NESTED, data)]));
  expect(parseElements(list(element(TAP, counter)), INTERFACE)).toEqual([{ parts: ['tap1'], key: TAP, packets: 3 }]);
});

test('an empty set, and a message that is cut short, have no elements', () => {
  expect(parseElements(attribute(1, Buffer.from('anka\0')), IPV4)).toEqual([]);
  expect(parseElements(list(element(Buffer.alloc(20))).subarray(0, 24), IPV4)).toEqual([]);
});
