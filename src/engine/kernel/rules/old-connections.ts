/**
 * Cuts connections that the rules of now would not let through, or lead elsewhere (B22, B60, B91).
 *
 * Theory of operation: `follow` is called when the rules are in force. It compares what connections depend on with the
 * last time (connection-policy.ts), and reads only entries that the change can have made stale. It reads all of them
 * the first time, after the rules were repaired, and after large changes. The host's own sockets to an address that was
 * lost or isolated are closed first, while their resets still pass.
 *
 * A cut TCP connection gets a RST when one of its ends sends again: from the host where no rule takes it, else from the
 * guest that the rule leads to. Where the rules drop what is sent, its ends time out.
 *
 * Limits: nobody can notify another VM that its connection to this one is closed. It times out.
 */
import { listAddresses } from '../../../host/links.ts';
import type { Connection, ConnectionFilter } from '../../../host/netlink/connection-messages.ts';
import { cutConnections } from '../../../host/netlink/conntrack.ts';
import { closeSockets } from '../../../host/netlink/sockets.ts';
import { wrap } from '../../../lib/errors.ts';
import { parseIpv4, subnetContains } from '../../../wire/address.ts';
import { IpProtocol } from '../../../wire/ipv4.ts';
import { DNS_PORT } from '../names.ts';
import { type ConnectionFacts, ConnectionPolicy, changesBetween, portKey } from './connection-policy.ts';

/** Beyond so many filters, all entries are read instead: each filter costs a walk through the table. */
const MAX_FILTERS = 16;

export class OldConnections {
  #facts: ConnectionFacts | null = null;

  /** What it knew the last time. */
  get facts(): ConnectionFacts | null {
    return this.#facts;
  }

  /** `repaired`: the rules were not in force meanwhile. */
  async follow(facts: ConnectionFacts, repaired: boolean): Promise<void> {
    if (this.#facts === null && facts.networks.length === 0) return;
    const { lost, isolated, filters } = this.#facts ? changesBetween(this.#facts, facts) : NOTHING;
    const all = this.#facts === null || repaired || filters.length > MAX_FILTERS;
    if (all || filters.length > 0) {
      closeHostSockets(facts, lost, isolated);
      const policy = new ConnectionPolicy(facts, await hostAddresses());
      await cut(all ? null : filters, (c) => touches(lost, c) || policy.isStale(c));
    }
    // only now: what failed is tried again
    this.#facts = facts;
  }

  /** Cuts the connections of a NIC that was deleted, and forgets it. */
  async forget(id: string): Promise<void> {
    const nics = new Map(this.#facts?.nics);
    const nic = nics.get(id);
    if (!this.#facts || !nic || nic.present) return;
    nics.delete(id);
    const owned = new Set([...nics.values()].flatMap((n) => n.addresses));
    const lost = new Set(nic.addresses.filter((ip) => !owned.has(ip)));
    closeHostSockets(this.#facts, lost, []);
    await cut(filtersOf(lost), (c) => touches(lost, c));
    const owners = new Map([...this.#facts.owners].filter(([ip]) => !lost.has(ip)));
    this.#facts = { ...this.#facts, nics, owners };
  }

  /** Cuts all connections of our networks. */
  async cutAll(): Promise<void> {
    const facts = this.#facts;
    this.#facts = null;
    if (!facts) return;
    const policy = new ConnectionPolicy({ ...facts, owners: new Map(), absent: new Set(), forwards: new Map() }, new Set());
    // those that the gateway opened, too: answers of DHCP to no address
    const isOurs = (ip: number): boolean => facts.networks.some((n) => subnetContains(n.subnet, ip));
    await cut(null, (c) => isOurs(c.source) || policy.isStale(c));
  }
}

const NOTHING = { lost: new Set<number>(), isolated: [], filters: [] };

const touches = (addresses: ReadonlySet<number>, c: Connection): boolean => addresses.has(c.source) || addresses.has(c.responder);

const filtersOf = (addresses: ReadonlySet<number>): ConnectionFilter[] => [...addresses].flatMap((ip) => [{ source: ip }, { responder: ip }]);

async function cut(filters: readonly ConnectionFilter[] | null, matches: (c: Connection) => boolean): Promise<void> {
  try {
    await cutConnections(filters, matches);
  } catch (cause) {
    throw wrap('cutting connections that are not allowed any more', cause, 'network');
  }
}

async function hostAddresses(): Promise<Set<number>> {
  return new Set([...(await listAddresses()).values()].flat().flatMap((a) => parseIpv4(a.split('/')[0] as string) ?? []));
}

/** Sockets that rules or DNS allow an isolated NIC stay. */
function closeHostSockets({ isolated: open }: ConnectionFacts, lost: ReadonlySet<number>, isolated: readonly number[]): void {
  if (lost.size + isolated.length === 0) return;
  closeSockets(
    ({ protocol, localPort, remote, remotePort }) =>
      lost.has(remote) || (isolated.includes(remote) && localPort !== DNS_PORT && !open.get(remote)?.has(portKey(IpProtocol[protocol], remotePort))),
  );
}
