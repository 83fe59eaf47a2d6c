/** Host ports of forwarding rules: which are free, and which conflict. Pure. */
import type { IpAddress } from '../wire/ip-address.ts';
import { addressesConflict } from './policy/forwarding.ts';

export interface PortUse {
  protocol: 'tcp' | 'udp';
  /** 0 = every IPv4 address, `::` = every IPv6 address. */
  hostIp: IpAddress;
  hostPort: number;
}

/** Whether two uses conflict: the same protocol and port, and addresses that exclude each other. */
export function portsConflict(a: PortUse, b: PortUse): boolean {
  return a.protocol === b.protocol && a.hostPort === b.hostPort && addressesConflict(a.hostIp, b.hostIp);
}

/** Ports from `base` to 65535 in the order they are tried, without those of other rules. */
export function* candidatePorts(base: number, wanted: Omit<PortUse, 'hostPort'>, others: readonly PortUse[]): Generator<number> {
  for (let hostPort = base; hostPort <= 65_535; hostPort++) {
    if (!others.some((o) => portsConflict(o, { ...wanted, hostPort }))) yield hostPort;
  }
}
