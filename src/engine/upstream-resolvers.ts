/** The resolvers that guests' DNS queries are forwarded to (B25). */
import { readResolvers } from '../host/resolvers.ts';
import { formatIpv4, gatewayOf } from '../wire/address.ts';
import type { Subnet } from './engine.ts';

/** Those of the setting dns_servers, else the host's; `subnets` are ours, whose gateways are left out. */
export function upstreamResolvers(configured: readonly string[], subnets: readonly Subnet[]): readonly string[] {
  return configured.length > 0 ? configured : readResolvers(subnets.map((s) => formatIpv4(gatewayOf(s))));
}
