/**
 * Closes the connections of a NIC that has left its network, or that was isolated from its neighbours (B22, B91).
 *
 * Theory of operation: a NIC's network and address are recorded. When the next application finds it on another network,
 * or with another address, the old address's connection tracking entries are deleted and the host's own sockets to it
 * are closed: whoever still sends gets a reset. The record of a NIC whose VM is stopped or suspended is kept, so that a
 * change of network meanwhile is noticed. Connections of other addresses are not touched.
 *
 * Limits: nobody can notify another VM that its connection to this one is closed. It finds out when its retransmissions
 * time out.
 */

import { run } from '../../../host/exec.ts';
import { listAddresses } from '../../../host/links.ts';
import { cutConnections } from '../../../host/netlink/conntrack.ts';
import { formatIpv4, parseIpv4, subnetContains } from '../../../wire/address.ts';
import type { DesiredNetwork } from '../../engine.ts';
import type { RuledNic } from './rule-input.ts';

interface Location {
  network: string;
  ip: number | null;
  isolated: boolean;
}

/** Connections to close. */
export interface StaleConnections {
  ip: number;
  /** The NIC keeps its address but was isolated: only its connections with VMs and the host are closed. */
  isolated: boolean;
}

/** Recorded NICs. Beyond it, the least recently seen is forgotten. */
const MAX_LOCATIONS = 4096;

export class NicLocations {
  #locations = new Map<string, Location>();

  /** Records where the NICs are now. Returns what has become stale. */
  update(nics: readonly RuledNic[]): StaleConnections[] {
    const stale: StaleConnections[] = [];
    for (const { nic, ip } of nics) {
      const network = nic.type === 'bridge' ? `bridge ${nic.bridge ?? ''} ${nic.vlan ?? ''}` : nic.type;
      const old = this.#locations.get(nic.id);
      const moved = old !== undefined && (old.network !== network || (ip !== null && old.ip !== null && ip !== old.ip));
      if (moved && old.ip !== null) stale.push({ ip: old.ip, isolated: false });
      else if (old && !old.isolated && nic.isolated && ip !== null) stale.push({ ip, isolated: true });
      // inserted last, as the first is forgotten first
      this.#locations.delete(nic.id);
      // an address of the old network says nothing about the new one
      this.#locations.set(nic.id, { network, ip: ip ?? (moved ? null : (old?.ip ?? null)), isolated: nic.isolated });
    }
    for (const id of this.#locations.keys()) {
      if (this.#locations.size <= MAX_LOCATIONS) break;
      this.#locations.delete(id);
    }
    return stale;
  }

  forget(id: string): void {
    this.#locations.delete(id);
  }
}

export async function closeConnections(stale: readonly StaleConnections[], networks: readonly DesiredNetwork[]): Promise<void> {
  if (stale.length === 0) return;
  const hostAddresses = new Set([...(await listAddresses()).values()].flat().map((a) => parseIpv4(a.split('/')[0] as string)));
  const isLocal = (a: number): boolean => hostAddresses.has(a) || networks.some((n) => subnetContains(n.subnet, a));
  for (const { ip, isolated } of stale) {
    cutConnections(ip, isolated ? (c) => isLocal(c.source === ip ? c.destination : c.source) : undefined);
    // the host's own sockets; without SOCK_DESTROY in the kernel they time out
    await run('ss', ['-K', 'dst', formatIpv4(ip)]);
  }
}
