import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatIpv4, parseIpv4, parseSubnet } from '../../wire/address.ts';
import { AddressPool } from './lease-pool.ts';

const subnet = parseSubnet('192.168.64.0/24') as { base: number; prefix: number };
const HOUR = 3_600_000;
const ip = (t: string): number => parseIpv4(t) as number;

/** Offer and bind, as a client does. */
function take(p: AddressPool, id: string, now: number, wish = 0): string | null {
  const a = p.offer(id, wish, now);
  if (a === null) return null;
  expect(p.bind(id, a, HOUR, now)).toBe(true);
  return formatIpv4(a);
}

describe('the address pool', () => {
  test('B11: addresses are .2 to .254, never .1 or .255, and 253 of them', () => {
    const p = new AddressPool(subnet);
    const got = Array.from({ length: 253 }, (_, i) => take(p, `vm${i}`, 0));
    expect(new Set(got).size).toBe(253);
    expect(got).toContain('192.168.64.2');
    expect(got).toContain('192.168.64.254');
    expect(got).not.toContain('192.168.64.1');
    expect(got).not.toContain('192.168.64.255');
    expect(take(p, 'one too many', 0)).toBeNull();
    expect(take(p, 'later', HOUR + 1)).not.toBeNull();
  });
  test('B23: the same NIC gets the same address again, after release, expiry and restart', () => {
    const p = new AddressPool(subnet);
    const first = take(p, 'a', 0);
    take(p, 'b', 0);
    p.release('a');
    expect(take(p, 'c', 1)).not.toBe(first);
    expect(take(p, 'a', 2)).toBe(first);
    expect(take(p, 'a', 10 * HOUR)).toBe(first);
    p.release('a');
    const q = new AddressPool(subnet);
    q.restore(p.snapshot());
    expect(take(q, 'b', 10 * HOUR)).toBe('192.168.64.3');
    expect(take(q, 'a', 10 * HOUR)).toBe(first);
  });
  test('B23: 10,000 short-lived VMs a day do not exhaust a /24', () => {
    const p = new AddressPool(subnet);
    const alive: string[] = [];
    for (let i = 0; i < 10_000; i++) {
      const now = i * 8640;
      expect(take(p, `vm${i}`, now)).not.toBeNull();
      alive.push(`vm${i}`);
      if (alive.length > 20) p.forget(alive.shift() as string);
    }
  });
  test('B23: the leases of 10,000 VMs that disappear without RELEASE expire', () => {
    const p = new AddressPool(subnet);
    let refused = 0;
    for (let i = 0; i < 10_000; i++) if (take(p, `vm${i}`, i * 20_000) === null) refused++;
    expect(refused).toBe(0);
  });
  test('B51: a reservation is leased to its owner only', () => {
    const p = new AddressPool(subnet);
    p.setOwners(new Map([['a', ip('192.168.64.50')]]), new Map());
    expect(take(p, 'b', 0, ip('192.168.64.50'))).toBe('192.168.64.2');
    expect(take(p, 'a', 0)).toBe('192.168.64.50');
    expect(p.bind('b', ip('192.168.64.50'), HOUR, 0)).toBe(false);
  });
  test('B50: a statically configured address is never leased to another NIC', () => {
    const p = new AddressPool(subnet);
    p.setOwners(new Map(), new Map([['a', ip('192.168.64.2')]]));
    expect(take(p, 'b', 0)).toBe('192.168.64.3');
    expect(take(p, 'a', 0)).toBe('192.168.64.2');
  });
  test('a declined address is not leased for ten minutes', () => {
    const p = new AddressPool(subnet);
    const a = take(p, 'a', 0);
    p.decline('a', ip(a as string), 0);
    expect(take(p, 'a', 1)).not.toBe(a);
    expect(p.bind('b', ip(a as string), HOUR, 1)).toBe(false);
    expect(p.bind('b', ip(a as string), HOUR, 600_001)).toBe(true);
  });
  test('any sequence of events: no two NICs have the same address', () => {
    const small = parseSubnet('10.0.0.0/29') as { base: number; prefix: number };
    const action = fc.record({
      what: fc.constantFrom('take', 'release', 'forget', 'decline'),
      id: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f', 'g'),
      wait: fc.nat(2 * HOUR),
      wish: fc.integer({ min: 0, max: 7 }),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
        const p = new AddressPool(small);
        let now = 0;
        for (const a of actions) {
          now += a.wait;
          if (a.what === 'take') {
            const got = p.offer(a.id, small.base + a.wish, now);
            if (got !== null) {
              expect(got).toBeGreaterThanOrEqual(small.base + 2);
              expect(got).toBeLessThanOrEqual(small.base + 6);
              p.bind(a.id, got, HOUR, now);
            }
          } else if (a.what === 'release') p.release(a.id);
          else if (a.what === 'forget') p.forget(a.id);
          else p.decline(a.id, p.lease(a.id, now)?.ip ?? 0, now);
          const leases = p.leases(now);
          expect(new Set(leases.map((l) => l.ip)).size).toBe(leases.length);
          expect(new Set(leases.map((l) => l.id)).size).toBe(leases.length);
        }
      }),
    );
  });
});
