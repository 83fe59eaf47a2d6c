import { expect, test } from 'vitest';
import { noTouchConstant } from './no-touch-object.ts';

test('B16: the table is sorted as the program searches it, and the rest of it matches nobody', () => {
  const b = noTouchConstant({
    nic: 2,
    port: 9,
    hostMac: 0x0200_0000_0902,
    vms: [
      { mac: 0x564545000002, parted: true },
      { mac: 0x564545010000, parted: false },
    ],
  });
  expect(b.subarray(0, 16).toString('hex')).toBe('02000000' + '09000000' + '0200000009020000');
  // 56:45:45:01:00:00 is the smaller one when its last byte is the highest
  expect(b.subarray(16, 40).toString('hex')).toBe('5645450100000100' + '5645450000020300' + 'ffffffffffff0000');
  expect(b.length).toBe(16 + 256 * 8);
});

test('B16: more VMs than the table has places for are refused', () => {
  const vms = Array.from({ length: 257 }, (_, i) => ({ mac: 0x564545000000 + i, parted: false }));
  expect(() => noTouchConstant({ nic: 1, port: 2, hostMac: 1, vms })).toThrow('at most 256 VMs');
});
