/** What the nft rules are rendered from, besides the desired networks. */
import { createHash } from 'node:crypto';
import type { DesiredNic } from '../../engine.ts';

/** The addresses of a NIC on a network with a gateway. */
export interface RuledAddresses {
  /** The main one, which forwarding rules lead to; null while it has none. */
  ip: number | null;
  /** All of them, with the reservation. */
  addresses: readonly number[];
  /** Those that another NIC may claim, which then is to be decided. */
  virtual: readonly number[];
  /** Those that its guest answers for, as far as is known. */
  live: readonly number[];
}

/** A NIC and its addresses. */
export interface RuledNic extends RuledAddresses {
  nic: DesiredNic;
}

/** What the guard has to know about NICs of type bridge. */
export interface Segments {
  /** NICs (ids) attached to a bridge that anka created, which is no network of the host. */
  nics: ReadonlySet<string>;
  /** The host's own addresses on the bridged interfaces: no guest may claim them. */
  hostAddresses: readonly string[];
}

/**
 * The domain in which a NIC's IPv6 addresses are unique, as it appears in names of sets and chains: the network, or one
 * VLAN of one bridge.
 */
export function domainOf(nic: DesiredNic): string {
  if (nic.type !== 'bridge') return nic.type;
  return createHash('sha256')
    .update(`${nic.bridge ?? ''}/${nic.vlan ?? ''}`)
    .digest('hex')
    .slice(0, 8);
}
