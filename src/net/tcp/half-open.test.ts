import { describe, expect, test } from 'vitest';
import { FakePort, GUEST, TcpRig } from '../../../test/sim/tcp-rig.ts';
import { type Dial, TcpDialQueue } from './dial-queue.ts';
import { TcpEvents, TcpFlow, TcpPortState } from './flow.ts';
import { DialPriority } from './half-open.ts';
import type { InboundAddresses } from './interface.ts';

/** An address that does not answer. */
const dead = (i: number): number => 0x0a000000 + i;
const GOOD = 0xc0000201;

/** A forwarded client of the guest's port 22. */
const client = (sourceIp: number, sourcePort: number): InboundAddresses => ({ guestIp: GUEST, guestPort: 22, sourceIp, sourcePort });

/** A burst of 10,000 SYNs, with one SYN to GOOD in its middle. Returns whether that one is still half-open. */
function burst(r: TcpRig, address: (i: number) => number, port: (i: number) => number): boolean {
  let good: TcpFlow | null = null;
  for (let i = 0; i < 10_000; i++) {
    if (i === 5000) {
      r.guest('S', { guestPort: 50_000, peer: GOOD, peerPort: 443 });
      good = r.flow;
    }
    r.guest('S', { guestPort: 1024 + (i % 40_000), peer: address(i), peerPort: port(i) });
  }
  return good?.has(TcpEvents.removed) === false;
}

describe('a burst of SYNs to addresses that do not answer', () => {
  const limits = { connecting: 512 };
  test('issue 4: to one address, a different port each: it evicts only its own', () => {
    const r = new TcpRig({ limits });
    expect(
      burst(
        r,
        () => dead(1),
        (i) => 1 + i,
      ),
    ).toBe(true);
    expect(r.machine.stats()).toMatchObject({ connecting: 512, opened: 10_001, evicted: 10_001 - 512 });
  });

  test('issue 4: to 10,000 addresses in 40 networks', () => {
    expect(burst(new TcpRig({ limits }), dead, () => 80)).toBe(true);
  });

  test('issue 4: to 10,000 networks: a known endpoint is spared, an unknown one only if the limit exceeds the burst', () => {
    const r = new TcpRig({ limits });
    r.established({ guestPort: 49_999, peer: GOOD, peerPort: 443 });
    expect(
      burst(
        r,
        (i) => dead(i * 256),
        () => 80,
      ),
    ).toBe(true);
    expect(
      burst(
        new TcpRig({ limits }),
        (i) => dead(i * 256),
        () => 80,
      ),
    ).toBe(false);
    expect(
      burst(
        new TcpRig(),
        (i) => dead(i * 256),
        () => 80,
      ),
    ).toBe(true);
  });

  test('a known endpoint that no longer answers is forgotten when it is evicted', () => {
    const r = new TcpRig({ limits: { connecting: 100 } });
    r.established({ guestPort: 49_999, peer: GOOD, peerPort: 443 });
    for (let i = 0; i < 1000; i++) r.guest('S', { guestPort: 1024 + i, peer: GOOD, peerPort: 443 });
    expect(r.machine.stats()).toMatchObject({ connecting: 100, evicted: 900 });
    r.guest('S', { guestPort: 50_000, peer: dead(7) });
    const fresh = r.flow!;
    for (let i = 0; i < 1000; i++) r.guest('S', { guestPort: 2024 + i, peer: GOOD, peerPort: 443 });
    expect(fresh.closed).toBe(false);
  });

  test('unanswered inbound clients evict each other, not the guest’s own connections, nor clients of another address', () => {
    const r = new TcpRig({ limits: { connecting: 100 } });
    r.guest('S', { peer: GOOD });
    const own = r.flow!;
    const other = r.machine.accept(r.port, client(dead(0), 999), r.now)!;
    for (let i = 0; i < 1000; i++) r.machine.accept(r.port, client(GOOD, 1000 + i), r.now);
    expect([own.closed, other.closed, r.machine.stats()['connecting']]).toEqual([false, false, 101]);
  });
});

test('host sockets: a guest gets as many as remain free for others, and its half-open connections are evicted', () => {
  const r = new TcpRig({ limits: { sockets: 20 } });
  const by = new FakePort(r.memory, 1, 1500, () => undefined);
  for (let i = 0; i < 30; i++) r.guest('S', { guestPort: 1000 + i, peer: dead(i) });
  expect(r.machine.stats()).toMatchObject({ flows: 10, evicted: 20 });
  for (let i = 0; i < 30; i++) r.guest('S', { by, guestPort: 1000 + i, peer: dead(i) });
  expect(r.machine.stats()).toMatchObject({ flows: 15, evicted: 45 });
  const full = new TcpRig({ limits: { sockets: 4 } });
  for (let i = 0; i < 2; i++) full.established({ guestPort: 1000 + i });
  full.guest('S', { guestPort: 2000 });
  expect(full.take(), 'none can be evicted').toEqual([expect.stringMatching(/^R\./)]);
});

test('no host socket available: the SYN is dropped, and the next one is tried again', () => {
  const r = new TcpRig();
  r.guest('S');
  r.take();
  r.machine.onNoSocket(r.flow!, r.now);
  expect(r.take()).toEqual(['reset']);
  r.guest('S');
  expect(r.take()).toEqual(['connect 198.51.100.1:80']);
  expect(r.machine.stats()).toMatchObject({ noSocket: 1, flows: 1 });
});

describe('dial order', () => {
  const guests = [0, 1].map((index) => new TcpPortState({ index } as FakePort));
  const dial = (guest: number, name: number): Dial => ({
    flow: new TcpFlow(name, guests[guest], { guestIp: 0, peerIp: 0, ports: 0 }, false, { header: null as never, send: null as never }),
    to: { host: '', port: name },
  });
  const all = (q: TcpDialQueue): number[] => {
    const names: number[] = [];
    for (let d = q.next(); d; d = q.next()) names.push('port' in d.to ? d.to.port : 0);
    return names;
  };

  test('guests round-robin, each by priority, then by age', () => {
    const q = new TcpDialQueue();
    for (const n of [10, 11, 12]) q.push(dial(0, n), DialPriority.longLane);
    q.push(dial(0, 13), DialPriority.shortLane);
    q.push(dial(0, 14), DialPriority.known);
    q.push(dial(1, 20), DialPriority.longLane);
    q.push(dial(1, 21), DialPriority.longLane);
    expect(all(q)).toEqual([14, 20, 13, 21, 10, 11, 12]);
  });

  test('closed flows are skipped, and do not accumulate', () => {
    const q = new TcpDialQueue();
    const ended: Dial[] = [];
    for (let i = 0; i < 100_000; i++) {
      const d = dial(0, i);
      if (i % 1000 !== 0) d.flow.events |= TcpEvents.removed;
      if (i < 100) ended.push(d);
      q.push(d, DialPriority.longLane);
    }
    expect(all(q)).toEqual(Array.from({ length: 100 }, (_, i) => i * 1000));
  });
});

test('priorities: known endpoints first, then networks with few half-open connections', () => {
  const r = new TcpRig();
  const priorities: number[] = [];
  r.onConnect = (p) => priorities.push(p);
  for (let i = 0; i < 10; i++) r.guest('S', { guestPort: 1000 + i, peer: dead(i) });
  r.established({ guestPort: 2000, peer: GOOD, peerPort: 443 });
  r.guest('S', { guestPort: 2001, peer: GOOD, peerPort: 443 });
  expect(priorities).toEqual([
    ...new Array(8).fill(DialPriority.shortLane),
    DialPriority.longLane,
    DialPriority.longLane,
    DialPriority.shortLane,
    DialPriority.known,
  ]);
});
