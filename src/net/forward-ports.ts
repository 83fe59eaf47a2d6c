/** Host ports of forwarding rules: which are free, and which conflict. Pure. */

export interface PortUse {
  protocol: 'tcp' | 'udp';
  /** 0 = every address. */
  hostIp: number;
  hostPort: number;
}

/** Whether two uses conflict: same protocol and port, and the same address or one of them for every address. */
export function portsConflict(a: PortUse, b: PortUse): boolean {
  return a.protocol === b.protocol && a.hostPort === b.hostPort && (a.hostIp === 0 || b.hostIp === 0 || a.hostIp === b.hostIp);
}

/** Ports from `base` to 65535 in the order they are tried, without those of other rules. */
export function* candidatePorts(base: number, wanted: Omit<PortUse, 'hostPort'>, others: readonly PortUse[]): Generator<number> {
  for (let hostPort = base; hostPort <= 65_535; hostPort++) {
    if (!others.some((o) => portsConflict(o, { ...wanted, hostPort }))) yield hostPort;
  }
}
