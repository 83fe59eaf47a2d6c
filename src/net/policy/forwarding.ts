/** Which forwarding rule a packet for the host meets (B60 to B66). */
import type { IpAddress } from '../../wire/ip-address.ts';

export interface ForwardingMatch {
  readonly protocol: 'tcp' | 'udp';
  /** An address of the host; `ANY_ADDRESS` = every IPv4 address, `ANY_ADDRESS6` = every IPv6 address. */
  readonly hostIp: IpAddress;
  readonly hostPort: number;
}

export const ANY_ADDRESS = 0;
export const ANY_ADDRESS6 = '::';

/** By address family: IPv4 and IPv6 rules never conflict, and neither takes the other's clients. */
const anyOfFamily = (address: IpAddress): IpAddress => (typeof address === 'number' ? ANY_ADDRESS : ANY_ADDRESS6);

/** Rules are in force where there is a gateway (B66). */
export const hasForwarding = (cardType: string): cardType is 'shared' | 'host' => cardType === 'shared' || cardType === 'host';

export const matchesPort = (rule: ForwardingMatch, protocol: string, port: number | null): boolean => rule.protocol === protocol && rule.hostPort === port;

/** For every IPv4 address. Only such a rule has an address of the host by which guests reach it. */
export const isForAnyAddress = (rule: ForwardingMatch): boolean => rule.hostIp === ANY_ADDRESS;

/** Whether two listeners on one port exclude each other: the same address, or one of them is for all of that family. */
export function addressesConflict(a: IpAddress, b: IpAddress): boolean {
  return a === b || (typeof a === typeof b && (a === anyOfFamily(a) || b === anyOfFamily(b)));
}

/** A rule for this very address comes before one for every address. `candidates` match the port already. */
export function chooseByAddress<C>(candidates: readonly C[], ruleOf: (candidate: C) => ForwardingMatch, address: IpAddress): C | null {
  return candidates.find((c) => ruleOf(c).hostIp === address) ?? candidates.find((c) => ruleOf(c).hostIp === anyOfFamily(address)) ?? null;
}
