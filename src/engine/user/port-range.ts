/**
 * `anka doctor` on the host's ephemeral ports (B93): each connection of a guest takes one, so a small range limits
 * connections to one server.
 */
import { readSysctl } from '../../host/sysctl.ts';
import type { DoctorFinding } from '../engine.ts';

/** Fewer are reported. */
const ENOUGH_PORTS = 1000;

export async function portRange(): Promise<DoctorFinding[]> {
  const [low, high] = ((await readSysctl('net/ipv4/ip_local_port_range')) ?? '').split(/\s+/).map(Number) as [number, number?];
  if (high === undefined) return []; // not Linux
  const ports = high - low + 1;
  if (ports >= ENOUGH_PORTS) return [{ id: 'limits.ports', level: 'ok', message: "the host has enough ports for guests' connections", remedy: '' }];
  return [
    {
      id: 'limits.ports',
      level: 'warning',
      message: `net.ipv4.ip_local_port_range (${low} ${high}) has ${ports} ports: guests together are limited to as many connections to one server`,
      remedy: 'run \'sysctl -w net.ipv4.ip_local_port_range="32768 60999"\' as root',
    },
  ];
}
