import { expect, test } from 'vitest';
import { isLinkLocal6, isMulticast6, linkLocalOf, parseIpv6, wordsOfIpv6 } from './address6.ts';

test('canonical text, or null', () => {
  expect(parseIpv6('2001:DB8:0:0:0:0:0:1')).toBe('2001:db8::1');
  expect(parseIpv6('::ffff:1.2.3.4')).toBe('::ffff:102:304');
  for (const bad of ['', '1.2.3.4', 'fe80::1%eth0', '::1::', 'vm1', '[::1]']) expect(parseIpv6(bad), bad).toBeNull();
});

test('link-local address of a MAC address: RFC 4291, appendix A', () => {
  expect(linkLocalOf(0x3456789abcde)).toBe('fe80::3656:78ff:fe9a:bcde');
  expect(linkLocalOf(0x564545000001)).toBe('fe80::5445:45ff:fe00:1');
  expect(isLinkLocal6(linkLocalOf(0x020000000000))).toBe(true);
  expect(isLinkLocal6('fec0::1')).toBe(false);
  expect(isMulticast6('ff02::1')).toBe(true);
});

test.each([
  ['::', [0, 0, 0, 0]],
  ['::1', [0, 0, 0, 1]],
  ['fe80::5445:45ff:fe00:2', [0xfe800000, 0, 0x544545ff, 0xfe000002]],
  ['2001:db8:1::2', [0x20010db8, 0x00010000, 0, 2]],
  ['1:2:3:4:5:6:7:8', [0x10002, 0x30004, 0x50006, 0x70008]],
])('the words of %s', (text, words) => expect(wordsOfIpv6(text)).toEqual(words));
