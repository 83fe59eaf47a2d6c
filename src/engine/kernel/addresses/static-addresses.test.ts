import { describe, expect, test } from 'vitest';
import type { Neighbour } from '../../../host/netlink/neighbours.ts';
import { type KnownNic, StaticAddresses } from './static-addresses.ts';

const IP = 0xc0a84002;
const OTHER = 0xc0a8404d;
const MAC = 0x564545000001;
const nic = (rest: Partial<KnownNic> = {}): KnownNic => ({ id: 'vm1', mac: MAC, leaseIp: null, lastDhcp: null, ...rest });
const arp = (...ips: number[]): Neighbour[] => ips.map((ip) => ({ ip, mac: MAC, dev: 'anka-shared' }));

describe('B50: the address that a guest has set by itself', () => {
  test('an address without a lease is self-set', () => {
    expect(new StaticAddresses().update([nic()], arp(IP), () => true, 1000)).toEqual(new Map([['vm1', IP]]));
  });

  test('an address that ARP shows before the lease is reported counts as leased as soon as it is', () => {
    const statics = new StaticAddresses();
    statics.update([nic({ lastDhcp: 900 })], arp(IP), () => true, 1000);
    expect(statics.update([nic({ leaseIp: IP, lastDhcp: 900 })], arp(IP), () => true, 2000)).toEqual(new Map());
  });

  test('another address than the lease stays self-set until the guest asks by DHCP again', () => {
    const statics = new StaticAddresses();
    const leased = nic({ leaseIp: IP, lastDhcp: 900 });
    statics.update([leased], arp(IP), () => true, 1000);
    expect(statics.update([leased], arp(IP, OTHER), () => true, 2000)).toEqual(new Map([['vm1', OTHER]]));
    expect(statics.update([leased], arp(IP, OTHER), () => true, 3000)).toEqual(new Map([['vm1', OTHER]]));
    expect(statics.update([{ ...leased, lastDhcp: 3500 }], arp(IP, OTHER), () => true, 4000)).toEqual(new Map());
  });

  test('an address that the guard refuses is not taken', () => {
    expect(new StaticAddresses().update([nic()], arp(OTHER), () => false, 1000)).toEqual(new Map());
  });
});
