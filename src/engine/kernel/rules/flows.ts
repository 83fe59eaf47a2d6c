/**
 * Ends the connections of a card that has left its network, or that is parted from its neighbours (B22, B91).
 *
 * Theory of operation: the place of a card is its network and its address there. When the next application finds it
 * elsewhere, or with another address, what the kernel knows of connections of the old address is removed, and the
 * host's own sockets to it are closed: whoever still sends is answered by a reset. A card that is only away (stopped,
 * suspended) keeps its place, so that a network changed meanwhile is noticed; nothing of other addresses is touched.
 * Limits: between two VMs nobody can tell the other that the connection is over; it finds out when its retransmissions
 * end.
 */

import { run } from '../../../host/exec.ts';
import { listAddresses } from '../../../host/links.ts';
import { cutConnections } from '../../../host/netlink/conntrack.ts';
import { formatIpv4, parseIpv4, subnetContains } from '../../../wire/address.ts';
import type { DesiredNetwork } from '../../engine.ts';
import type { RuledNic } from './rule-input.ts';

interface Place {
  network: string;
  ip: number | null;
  isolated: boolean;
}

/** What has to end: all connections of an address, or only those with VMs and host. */
export interface Ending {
  ip: number;
  nearOnly: boolean;
}

/** Remembered cards; the oldest is forgotten first. */
const MAX_PLACES = 4096;

export class Places {
  #places = new Map<string, Place>();

  /** Takes the cards as they are now, and tells what has to end. */
  follow(nics: readonly RuledNic[]): Ending[] {
    const endings: Ending[] = [];
    for (const { nic, ip } of nics) {
      const network = nic.type === 'bridge' ? `bridge ${nic.bridge ?? ''} ${nic.vlan ?? ''}` : nic.type;
      const old = this.#places.get(nic.id);
      const moved = old !== undefined && (old.network !== network || (ip !== null && old.ip !== null && ip !== old.ip));
      if (moved && old.ip !== null) endings.push({ ip: old.ip, nearOnly: false });
      else if (old && !old.isolated && nic.isolated && ip !== null) endings.push({ ip, nearOnly: true });
      // an address of another network is not this one's
      this.#places.delete(nic.id);
      this.#places.set(nic.id, { network, ip: ip ?? (moved ? null : (old?.ip ?? null)), isolated: nic.isolated });
    }
    for (const id of this.#places.keys()) {
      if (this.#places.size <= MAX_PLACES) break;
      this.#places.delete(id);
    }
    return endings;
  }

  forget(id: string): void {
    this.#places.delete(id);
  }
}

/** Makes it so. */
export async function endFlows(endings: readonly Ending[], networks: readonly DesiredNetwork[]): Promise<void> {
  if (endings.length === 0) return;
  const own = new Set([...(await listAddresses()).values()].flat().map((a) => parseIpv4(a.split('/')[0] as string)));
  const near = (a: number): boolean => own.has(a) || networks.some((n) => subnetContains(n.subnet, a));
  for (const { ip, nearOnly } of endings) {
    cutConnections(ip, nearOnly ? (c) => near(c.source === ip ? c.destination : c.source) : undefined);
    // the host's own sockets; a kernel without SOCK_DESTROY leaves them to their time limits
    await run('ss', ['-K', 'dst', formatIpv4(ip)]);
  }
}
