import { describe, expect, test } from 'vitest';
import { GUEST, PEER, TcpRig } from '../../../test/sim/tcp-rig.ts';
import { Unreachable } from '../../wire/icmp.ts';
import { DONT_FRAGMENT } from '../../wire/ipv4.ts';
import { seqAdd } from '../../wire/sequence.ts';
import type { LostSegment } from './interface.ts';

/** "Fragmentation needed" about the segment that begins at `seq`, counted from our first sequence number. */
function report(r: TcpRig, seq: number, mtu: number, other: Partial<LostSegment> = {}): string[] {
  const ports = { guestPort: 40_000, peerPort: 80 };
  const code = Unreachable.fragmentationNeeded;
  r.machine.onSegmentLost(r.port, { guestIp: GUEST, peerIp: PEER, ...ports, seq: seqAdd(r.iss, seq), code, size: 1500, mtu, ...other }, r.now);
  return r.take();
}

/** Three segments of 1,460 bytes are in flight. */
function sending(sack: boolean): TcpRig {
  const r = new TcpRig().established({ sack });
  r.host(Buffer.alloc(4380));
  expect(r.take()).toEqual(['. seq 1 ack 1 len 1460', '. seq 1461 ack 1 len 1460', 'P. seq 2921 ack 1 len 1460']);
  return r;
}

const dontFragment = (r: TcpRig): boolean => r.memory.view.getUint16(r.flow!.header.at + 24) === DONT_FRAGMENT;

describe('ICMP "fragmentation needed" of the guest about segments (RFC 1191, RFC 5927)', () => {
  test.each([true, false])('RFC 1191, 6.4: what is in flight is sent again at once, in smaller segments (SACK: %s)', (sack) => {
    const r = sending(sack);
    const again = ['. seq 1 ack 1 len 1240', '. seq 1241 ack 1 len 1240', '. seq 2481 ack 1 len 1240', 'P. seq 3721 ack 1 len 660'];
    expect(report(r, 1, 1280)).toEqual(again);
    // the errors about the others of that flight
    expect([report(r, 1461, 1280), report(r, 2921, 1280)]).toEqual([[], []]);
    r.guest('.', { seq: 1, ack: 4381 });
    r.host(Buffer.alloc(2000));
    expect(r.take()).toEqual(['. seq 4381 ack 1 len 1240', 'P. seq 5621 ack 1 len 760']);
    expect(r.machine.stats()).toMatchObject({ narrowed: 1, timeouts: 0, retransmissions: 4 });
  });

  test('what the guest has reported as received is not sent again', () => {
    const r = sending(true);
    r.host('a last small one');
    expect(r.take()).toEqual(['P. seq 4381 ack 1 len 16']);
    r.guest('.', { seq: 1, ack: 1, blocks: [4381, 4397] });
    expect(report(r, 1, 1280).map((line) => line.slice(line.indexOf('seq')))).toEqual([
      'seq 1 ack 1 len 1240',
      'seq 1241 ack 1 len 1240',
      'seq 2481 ack 1 len 1240',
      'seq 3721 ack 1 len 660',
    ]);
  });

  test.each<[string, number, number, Partial<LostSegment>]>([
    ['a segment that is acknowledged', 1, 1280, {}],
    ['one that was never sent', 4381, 1280, {}],
    ['one far beyond', 1_000_000, 1280, {}],
    ['an MTU that the segment fits', 1461, 1500, {}],
    ['a larger MTU', 1461, 9000, {}],
    ['a segment larger than all that were sent', 1461, 1600, { size: 9000 }],
    ['an MTU above that of smaller segments', 1461, 1400, { size: 1300 }],
    ['another connection', 1461, 1280, { guestPort: 40_001 }],
    ['another peer', 1461, 1280, { peerIp: PEER + 1 }],
    ['host unreachable', 1461, 0, { code: Unreachable.host }],
    ['port unreachable', 1461, 0, { code: Unreachable.port }],
  ])('RFC 5927, 4 and 5: no effect: %s', (_what, seq, mtu, other) => {
    const r = sending(true);
    r.guest('.', { seq: 1, ack: 1461 });
    expect(report(r, seq, mtu, other)).toEqual([]);
    r.host(Buffer.alloc(3000));
    expect(r.take()[0]).toBe('. seq 4381 ack 1 len 1460');
    expect(r.machine.stats()).toMatchObject({ flows: 1, narrowed: 0 });
  });

  test('RFC 1191, 7: an error that names no MTU stands for the next plateau below the segment’s size', () => {
    const r = sending(true);
    expect(report(r, 1, 0)[0]).toBe('. seq 1 ack 1 len 1452');
    expect(report(r, 1, 0, { size: 1492 })[0]).toBe('. seq 1 ack 1 len 966');
  });

  test('a smaller one may follow; a very small one does not make segments smaller than 512 bytes, but clears DF', () => {
    const r = sending(true);
    expect(report(r, 1, 1280)[0]).toBe('. seq 1 ack 1 len 1240');
    expect(report(r, 1, 600, { size: 1280 })[0]).toBe('. seq 1 ack 1 len 560');
    expect(dontFragment(r)).toBe(true);
    expect(report(r, 1, 68, { size: 600 })[0]).toBe('. seq 1 ack 1 len 512');
    expect(dontFragment(r)).toBe(false);
    expect(report(r, 1, 68, { size: 552 })).toEqual([]);
  });

  test('RFC 1191, 6.3: after ten minutes the former size is tried again', () => {
    const r = sending(true);
    report(r, 1, 300);
    r.guest('.', { seq: 1, ack: 4381 });
    r.pass(599_000);
    r.host(Buffer.alloc(1400));
    expect(r.take()).toEqual(['. seq 4381 ack 1 len 512', '. seq 4893 ack 1 len 512', 'P. seq 5405 ack 1 len 376']);
    r.guest('.', { seq: 1, ack: 5781 });
    r.pass(2000);
    r.host(Buffer.alloc(1400));
    expect(r.take()).toEqual(['P. seq 5781 ack 1 len 1400']);
    expect(dontFragment(r)).toBe(true);
    expect(report(r, 5781, 1280, { size: 1440 })).toEqual(['. seq 5781 ack 1 len 1240', 'P. seq 7021 ack 1 len 160']);
  });

  test('a flow that takes over a header has DF again', () => {
    const r = sending(true);
    report(r, 1, 68);
    r.guest('R', { seq: 1 });
    r.take();
    r.established();
    expect(dontFragment(r)).toBe(true);
  });
});

describe('ICMP errors of the guest about a forwarded client’s SYN', () => {
  const toGuest = { guestPort: 22, peerPort: 51_000 };
  const accept = (): { r: TcpRig; why: () => string } => {
    const r = new TcpRig();
    let why = '';
    r.flow = r.machine.accept(r.port, { guestIp: GUEST, sourceIp: PEER, guestPort: 22, sourcePort: 51_000 }, r.now)!;
    r.flow.onAnswer = (w) => {
      why = w?.kind ?? 'accepted';
    };
    expect(r.take()).toEqual(['S seq 0 mss 1460 scale 7 sack']);
    return { r, why: () => why };
  };

  test.each([
    [Unreachable.net, 'net-unreachable'],
    [Unreachable.host, 'host-unreachable'],
    [Unreachable.port, 'refused'],
    [10, 'prohibited'],
    [Unreachable.prohibited, 'prohibited'],
  ])('RFC 5508 REQ-4: code %i rejects the client at once: %s', (code, kind) => {
    const { r, why } = accept();
    expect(report(r, 0, 0, { ...toGuest, code, size: 60 })).toEqual(['reset']);
    expect([why(), r.machine.stats()['flows']]).toEqual([kind, 0]);
  });

  test('an error that does not quote this SYN, or names an MTU, has no effect', () => {
    const { r, why } = accept();
    expect(report(r, 1, 0, { ...toGuest, code: Unreachable.port, size: 60 })).toEqual([]);
    expect(report(r, 0, 1280, { ...toGuest, size: 60 })).toEqual([]);
    r.guest('S.', { ...toGuest, ack: 1 });
    expect([r.take(), why()]).toEqual([['. seq 1 ack 1'], 'accepted']);
  });
});
