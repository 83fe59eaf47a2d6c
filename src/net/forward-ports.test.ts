import { expect, test } from 'vitest';
import { candidatePorts, portsConflict } from './forward-ports.ts';

const tcp = (hostPort: number, hostIp: number | string = 0) => ({ protocol: 'tcp' as const, hostIp, hostPort });

test('B64: ports conflict on the same protocol, port and address, where 0.0.0.0 is every address', () => {
  expect(portsConflict(tcp(80), tcp(80))).toBe(true);
  expect(portsConflict(tcp(80), tcp(80, 0x0a000001))).toBe(true);
  expect(portsConflict(tcp(80, 0x0a000001), tcp(80, 0x0a000002))).toBe(false);
  expect(portsConflict(tcp(80), { ...tcp(80), protocol: 'udp' })).toBe(false);
  expect(portsConflict(tcp(80), tcp(81))).toBe(false);
});

test('B64: an IPv6 listener excludes no IPv4 one, and :: every other IPv6 one', () => {
  expect(portsConflict(tcp(80), tcp(80, '::'))).toBe(false);
  expect(portsConflict(tcp(80, '::1'), tcp(80, 0x7f000001))).toBe(false);
  expect(portsConflict(tcp(80, '::1'), tcp(80, '::'))).toBe(true);
  expect(portsConflict(tcp(80, '::1'), tcp(80, '2001:db8::1'))).toBe(false);
});

test('B62: candidates ascend from the base, without the ports of other rules', () => {
  const g = candidatePorts(10_000, tcp(0), [tcp(10_000), tcp(10_002, 0x0a000001)]);
  expect([g.next().value, g.next().value]).toEqual([10_001, 10_003]);
  expect([...candidatePorts(65_535, tcp(0), [tcp(65_535)])]).toEqual([]);
});
