/**
 * What a guest reaches through the user engine's gateway (B92).
 *
 * Theory of operation: the gateway's address stands for the host's primary one. A guest reaches the host's own
 * addresses, unless its card is isolated. Nobody reaches a subnet of ours through the gateway, 0.0.0.0/8, 127.0.0.0/8,
 * multicast or reserved addresses. From the host network nothing else is reached; from shared, all the rest is.
 */
import { gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { isGroupOrReserved, isLoopback } from './addresses.ts';

export interface GatewayNetwork {
  readonly network: { readonly name: 'shared' | 'host'; readonly subnet: SubnetLike };
  /** Subnets of our other networks. */
  readonly otherSubnets?: readonly SubnetLike[];
}

/** `gateway`: the gateway's own address. The last two are drop reasons. */
export type Reach = 'gateway' | 'host' | 'outside' | 'prohibited' | 'isolated';

/** Called per datagram: no allocation. `isHosts`: the host has the address, outside 127.0.0.0/8. */
export function gatewayReach(from: GatewayNetwork, isolated: boolean, ip: number, isHosts: boolean): Reach {
  const { name, subnet } = from.network;
  const isGateway = ip === gatewayOf(subnet);
  if (isolated && (isGateway || isHosts)) return 'isolated';
  if (isGateway) return 'gateway';
  if (subnetContains(subnet, ip)) return 'prohibited';
  if (from.otherSubnets !== undefined) for (const other of from.otherSubnets) if (subnetContains(other, ip)) return 'prohibited';
  if (isHosts) return 'host';
  return name === 'host' || ip >>> 24 === 0 || isLoopback(ip) || isGroupOrReserved(ip) ? 'prohibited' : 'outside';
}
