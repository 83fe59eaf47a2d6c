/**
 * What a guest reaches through the user engine's gateway (B92).
 *
 * Theory of operation: the gateway's address stands for the host's primary one. A guest reaches the host's own
 * addresses, unless its card is isolated. Nobody reaches a subnet of ours through the gateway, 0.0.0.0/8, 127.0.0.0/8,
 * link-local, multicast or reserved addresses, nor the cloud's metadata service unless a setting opens it. From the
 * host network nothing else is reached; from shared, all the rest is.
 */
import { gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { isGroup, isGroupOrReserved, isLoopback } from './addresses.ts';
import { isLinkLocal, isMetadata } from './metadata.ts';
import { DNS_SERVICE_PORT } from './services.ts';

export interface GatewayNetwork {
  readonly network: { readonly name: 'shared' | 'host'; readonly subnet: SubnetLike };
  /** Subnets of our other networks. */
  readonly otherSubnets?: readonly SubnetLike[];
  /** Guests of shared may reach the cloud's metadata service. */
  readonly metadata?: boolean;
}

/** `gateway`: the gateway's own address. The last three are drop reasons. */
export type Reach = 'gateway' | 'host' | 'outside' | 'metadata' | 'prohibited' | 'isolated';

/**
 * The network's own DNS answers queries to the gateway, and on the host network to every address of the host: its
 * resolver would answer names from outside, and send them there (B15).
 */
export function answersDns(from: GatewayNetwork, ip: number, isHosts: boolean, port: number): boolean {
  return port === DNS_SERVICE_PORT && (ip === gatewayOf(from.network.subnet) || (isHosts && from.network.name === 'host'));
}

/** An address of our networks, or of a group: what stays on this host, besides the host's own addresses. */
export function isLocalAddress(from: GatewayNetwork, ip: number): boolean {
  if (subnetContains(from.network.subnet, ip) || isGroup(ip)) return true;
  if (from.otherSubnets !== undefined) for (const other of from.otherSubnets) if (subnetContains(other, ip)) return true;
  return false;
}

/** Called per datagram: no allocation. `isHosts`: the host has the address, outside 127.0.0.0/8. */
export function gatewayReach(from: GatewayNetwork, isolated: boolean, ip: number, isHosts: boolean): Reach {
  const { name, subnet } = from.network;
  if (from.metadata !== true && isMetadata(ip)) return 'metadata';
  const isGateway = ip === gatewayOf(subnet);
  if (isolated && (isGateway || isHosts)) return 'isolated';
  if (isGateway) return 'gateway';
  if (subnetContains(subnet, ip)) return 'prohibited';
  if (from.otherSubnets !== undefined) for (const other of from.otherSubnets) if (subnetContains(other, ip)) return 'prohibited';
  if (isHosts) return 'host';
  if (isLinkLocal(ip) && !isMetadata(ip)) return 'prohibited';
  return name === 'host' || ip >>> 24 === 0 || isLoopback(ip) || isGroupOrReserved(ip) ? 'prohibited' : 'outside';
}
