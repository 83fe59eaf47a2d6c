import { expect, test } from 'vitest';
import { noTouchConfig } from './no-touch-object.ts';

test('B16: the table is sorted as the program searches it, and its unused entries match no address', () => {
  const b = noTouchConfig({
    uplink: 2,
    port: 9,
    hostMac: 0x0200_0000_0902,
    vms: [
      { mac: 0x564545000002, isolated: true },
      { mac: 0x564545010000, isolated: false },
    ],
  });
  expect(b.subarray(0, 16).toString('hex')).toBe('02000000' + '09000000' + '0200000009020000');
  // the last byte of an address is its most significant one: 56:45:45:01:00:00 is the smaller
  expect(b.subarray(16, 40).toString('hex')).toBe('5645450100000100' + '5645450000020300' + 'ffffffffffff0000');
  expect(b.length).toBe(16 + 256 * 8);
});

test('B16: more VMs than the table holds are refused', () => {
  const vms = Array.from({ length: 257 }, (_, i) => ({ mac: 0x564545000000 + i, isolated: false }));
  expect(() => noTouchConfig({ uplink: 1, port: 2, hostMac: 1, vms })).toThrow('at most 256 VMs');
});
