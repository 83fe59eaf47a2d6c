import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checksum16, fold16, sum16 } from '../../wire/bytes.ts';
import { pseudoSum } from '../../wire/udp.ts';
import { translateFromGuest, translateToGuest } from './mac-translation.ts';

const INSIDE = 0x020000abcdef;
const OUTSIDE = 0x564545123456;
const [I, O, X] = ['020000abcdef', '564545123456', '5a4545004001'];
const frame = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'));
const hex = (b: Uint8Array): string => Buffer.from(b).toString('hex');
const fromGuest = (h: string): string => {
  const f = frame(h);
  translateFromGuest(f, 0, f.length, INSIDE, OUTSIDE);
  return hex(f);
};
const toGuest = (h: string): string => {
  const f = frame(h);
  translateToGuest(f, 0, f.length, INSIDE, OUTSIDE);
  return hex(f);
};
const plain = (h: string): string => h.replaceAll(' ', '');

/**
 * A DHCP message with chaddr and option 61, in a UDP datagram with the right checksum. `odd`: the option begins at an
 * odd place.
 */
function dhcp(mac: string, reply: boolean, odd: boolean): string {
  const message = `${reply ? '02' : '01'}010600deadbeef${'00'.repeat(20)}${mac}${'00'.repeat(202)}6382536335010${reply ? 2 : 1}${odd ? '00' : ''}3d0701${mac}ff`;
  const udp = Buffer.from(`${reply ? '00430044' : '00440043'}${(8 + message.length / 2).toString(16).padStart(4, '0')}0000${message}`, 'hex');
  udp.writeUInt16BE(checksum16(udp, 0, udp.length, pseudoSum(0, 0xffffffff, 17, udp.length)) || 0xffff, 6);
  const total = (20 + udp.length).toString(16).padStart(4, '0');
  return `${reply ? mac : 'ffffffffffff'}${reply ? X : mac}0800 4500${total}000100004011000000000000ffffffff${udp.toString('hex')}`;
}

/** Neighbour discovery with a link-layer address and the right checksum. */
function nd(from: string, to: string, type: number, fixed: number, mac: string): string {
  const icmp = Buffer.from(`${type.toString(16)}000000${'00'.repeat(fixed - 4)}0${type === 136 ? 2 : 1}01${mac}`, 'hex');
  const addresses = Buffer.from(`fe80${'00'.repeat(13)}01ff02${'00'.repeat(13)}02`, 'hex');
  icmp.writeUInt16BE(checksum16(icmp, 0, icmp.length, sum16(addresses, 0, 32) + icmp.length + 58), 2);
  return `${to}${from}86dd60000000${icmp.length.toString(16).padStart(4, '0')}3aff${addresses.toString('hex')}${icmp.toString('hex')}`;
}

describe('the translation of MAC addresses (B41)', () => {
  test('Ethernet: the source of sent frames, the destination of received ones', () => {
    expect(fromGuest(`${X}${I}0800 45`)).toBe(plain(`${X}${O}0800 45`));
    expect(toGuest(`${O}${X}0800 45`)).toBe(plain(`${I}${X}0800 45`));
  });

  test('foreign addresses are not translated, so that the guard sees them', () => {
    expect(fromGuest(`${X}020000000099 0800 45`)).toBe(plain(`${X}020000000099 0800 45`));
    expect(toGuest(`ffffffffffff${I}0800 45`)).toBe(plain(`ffffffffffff${I}0800 45`));
  });

  test('ARP: the sender of sent frames, the target of received ones', () => {
    const arp = (sha: string, tha: string) => `0806 0001080006040002${sha}c0a84002${tha}c0a84001`;
    expect(fromGuest(`${X}${I}${arp(I, X)}`)).toBe(plain(`${X}${O}${arp(O, X)}`));
    expect(toGuest(`${O}${X}${arp(X, O)}`)).toBe(plain(`${I}${X}${arp(X, I)}`));
    // another card whose inside address is the same, under its outside address
    expect(toGuest(`${O}564545000009${arp('564545000009', O)}`)).toBe(plain(`${I}564545000009${arp('564545000009', I)}`));
  });

  test('ARP behind one and two 802.1Q tags', () => {
    const arp = (sha: string) => `0806 0001080006040001${sha}c0a84002000000000000c0a84001`;
    expect(fromGuest(`${X}${I}8100 0064 ${arp(I)}`)).toBe(plain(`${X}${O}8100 0064 ${arp(O)}`));
    expect(fromGuest(`${X}${I}88a8 0064 8100 0065 ${arp(I)}`)).toBe(plain(`${X}${O}88a8 0064 8100 0065 ${arp(O)}`));
  });

  test.each([false, true])('DHCP: chaddr and client identifier, with the checksum (option at an odd offset: %s)', (odd) => {
    expect(fromGuest(dhcp(I, false, odd))).toBe(plain(dhcp(O, false, odd)));
    expect(toGuest(dhcp(O, true, odd))).toBe(plain(dhcp(I, true, odd)));
  });

  test('DHCP without a checksum keeps none; a wrong one stays wrong', () => {
    const f = frame(dhcp(I, false, false));
    f[40] = f[41] = 0;
    expect(fromGuest(hex(f)).slice(80, 84)).toBe('0000');
    const wrong = frame(dhcp(I, false, false));
    wrong[41] = (wrong[41] as number) ^ 0x10;
    const out = frame(fromGuest(hex(wrong)));
    expect(fold16(pseudoSum(0, 0xffffffff, 17, out.length - 34) + sum16(out, 34, out.length))).not.toBe(0xffff);
  });

  test.each([
    [133, 8, 'router solicitation'],
    [135, 24, 'neighbour solicitation'],
    [136, 24, 'neighbour advertisement'],
  ])('ICMPv6 %i: a %s’s link-layer address, with the checksum', (type, fixed) => {
    expect(fromGuest(nd(I, '333300000001', type, fixed, I))).toBe(plain(nd(O, '333300000001', type, fixed, O)));
    expect(toGuest(nd(X, O, type, fixed, O))).toBe(plain(nd(X, I, type, fixed, I)));
  });

  test('translating back restores any frame; nothing behind its end changes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.constantFrom('0806', '0800', '86dd', '8100'), fc.boolean(), (tail, type, whole) => {
        const seeds = [dhcp(I, false, true), nd(I, '333300000001', 135, 24, I)];
        const body = whole ? frame(seeds[tail.length & 1] as string) : Buffer.concat([frame(`${X}${I}${type}`), tail]);
        const n = Math.min(body.length, tail.length * 5);
        const padded = Buffer.concat([body.subarray(0, n), Buffer.from(I.repeat(10), 'hex')]);
        const before = hex(padded);
        translateFromGuest(padded, 0, n, INSIDE, OUTSIDE);
        expect(hex(padded).slice(2 * n)).toBe(before.slice(2 * n));
        translateFromGuest(padded, 0, n, OUTSIDE, INSIDE);
        const after = hex(padded);
        if (!before.includes(O)) expect(after).toBe(before);
      }),
    );
  });
});
