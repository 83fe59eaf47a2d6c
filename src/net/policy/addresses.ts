/** Classes of IPv4 addresses by which packets are let through, dropped or kept on their network. */
import { broadcastOf, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';

/** No guest reaches the host's (B92). */
export const LOOPBACK: SubnetLike = { base: 0x7f000000, prefix: 8 };
/**
 * Stands for a host that has no other address: what listens on all addresses is reached there, and nothing that listens
 * on 127.0.0.1. The host's programs see it as their client too, and so do not take a guest for `localhost`.
 */
export const HOST_ON_LOOPBACK = 0x7fc0a840; // 127.192.168.64
export const MULTICAST: SubnetLike = { base: 0xe0000000, prefix: 4 };
/** "This network" (RFC 1122): never a destination. */
export const THIS_NETWORK: SubnetLike = { base: 0, prefix: 8 };
export const LIMITED_BROADCAST = 0xffffffff;

/** What is sent to a group of machines, and never routed by us. */
export const isGroup = (ip: number): boolean => ip === LIMITED_BROADCAST || subnetContains(MULTICAST, ip);
export const isLoopback = (ip: number): boolean => ip >>> 24 === 127;

/** Multicast, the reserved 240.0.0.0/4 and the limited broadcast: no address of one machine. */
export const isGroupOrReserved = (ip: number): boolean => ip >= MULTICAST.base;

/** Addresses of a served network that belong to no guest: its own, the gateway's, the broadcast address. */
export function networkAddresses(subnet: SubnetLike): readonly [network: number, gateway: number, broadcast: number] {
  return [subnet.base, gatewayOf(subnet), broadcastOf(subnet)];
}

/** A card may claim a free address of its network by ARP (B50). `owned`: another card or the network owns it. */
export function canClaim(subnet: SubnetLike, ip: number, owned: boolean): boolean {
  return !owned && subnetContains(subnet, ip);
}
