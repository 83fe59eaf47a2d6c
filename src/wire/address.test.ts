import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  broadcastOf,
  formatIpv4,
  formatMac,
  formatSubnet,
  gatewayOf,
  isMulticastMac,
  parseIpv4,
  parseMac,
  parseSubnet,
  subnetContains,
  subnetsOverlap,
} from './address.ts';

describe('addresses', () => {
  test('IPv4 round trip', () => fc.assert(fc.property(fc.nat(0xffffffff), (n) => parseIpv4(formatIpv4(n)) === n)));
  test.each(['', '1.2.3', '1.2.3.4.5', '256.1.1.1', '01.2.3.4', '0x7f.0.0.1', '1.2.3.4 ', '1.2.3.-4', 'a.b.c.d', '1..2.3'])('%j is no IPv4 address', (t) =>
    expect(parseIpv4(t)).toBeNull(),
  );
  test('MAC round trip', () =>
    fc.assert(
      fc.property(
        fc.maxSafeNat().map((n) => n % 2 ** 48),
        (n) => parseMac(formatMac(n)) === n,
      ),
    ));
  test('B43: any usual spelling of a MAC is accepted, and formatted in lower case with colons', () => {
    for (const t of ['52:54:00:AB:cd:0f', '52-54-00-ab-cd-0f', '5254.00ab.cd0f', '525400ABCD0F', '52:54:0:ab:cd:f'])
      expect(formatMac(parseMac(t) as number)).toBe('52:54:00:ab:cd:0f');
  });
  test.each(['', '52:54:00:ab:cd', '52:54:00:ab:cd:0g', '52:54-00:ab:cd:0f', '52:54:00:ab:cd:0f:11', '5254 00ab cd0f'])('B43: %j is no MAC address', (t) =>
    expect(parseMac(t)).toBeNull(),
  );
  test('group bit', () => {
    expect(isMulticastMac(0x01005e000001)).toBe(true);
    expect(isMulticastMac(0x564545000001)).toBe(false);
  });
  test('subnets', () => {
    const s = parseSubnet('192.168.64.0/24') as { base: number; prefix: number };
    expect(formatSubnet(s)).toBe('192.168.64.0/24');
    expect(formatIpv4(gatewayOf(s))).toBe('192.168.64.1');
    expect(formatIpv4(broadcastOf(s))).toBe('192.168.64.255');
    expect(subnetContains(s, parseIpv4('192.168.65.0') as number)).toBe(false);
    for (const bad of ['192.168.64.1/24', '192.168.64.0', '192.168.64.0/33', '192.168.64.0/2x', '192.168.64.0/24/1']) expect(parseSubnet(bad)).toBeNull();
    expect(subnetsOverlap(s, parseSubnet('192.168.0.0/16') as never)).toBe(true);
    expect(subnetsOverlap(s, parseSubnet('192.168.65.0/24') as never)).toBe(false);
  });
});
