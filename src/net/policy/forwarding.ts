/** Which forwarding rule a packet for the host meets (B60 to B66). */

export interface ForwardingMatch {
  readonly protocol: 'tcp' | 'udp';
  /** `ANY_ADDRESS` = every address of the host. */
  readonly hostIp: number;
  readonly hostPort: number;
}

export const ANY_ADDRESS = 0;

/** Rules are in force where there is a gateway (B66). */
export const hasForwarding = (cardType: string): cardType is 'shared' | 'host' => cardType === 'shared' || cardType === 'host';

export const matchesPort = (rule: ForwardingMatch, protocol: string, port: number | null): boolean => rule.protocol === protocol && rule.hostPort === port;

export const isForAnyAddress = (rule: ForwardingMatch): boolean => rule.hostIp === ANY_ADDRESS;

/** A rule for this very address comes before one for every address. `candidates` match the port already. */
export function chooseByAddress<C>(candidates: readonly C[], ruleOf: (candidate: C) => ForwardingMatch, address: number): C | null {
  return candidates.find((c) => ruleOf(c).hostIp === address) ?? candidates.find((c) => isForAnyAddress(ruleOf(c))) ?? null;
}
