/**
 * Which connections may go on: pure, from the desired state and the NICs' addresses.
 *
 * Theory of operation: rules decide about the first packet of a connection. Connection tracking then lets the others
 * pass, translated as before. So when rules, addresses or networks have changed, `ConnectionPolicy` finds what the
 * rules of now would not let through, or lead elsewhere:
 *
 *  - connections of an address that no NIC has any more, or that another NIC has now,
 *  - through a forwarding rule that was removed or changed, or whose guest has another address now. TCP goes on while
 *    its address is still the guest's; datagrams lead to the main address,
 *  - datagrams to the host port of a rule that are older than the rule,
 *  - between an isolated NIC and the host or another NIC,
 *  - of guests to the metadata service, unless it is open,
 *  - of guests to outside that are not translated, as the rules were absent when they began.
 *
 * `changesBetween` says which of these a change can have made, and so what is to be read.
 *
 * Limits: IPv4. Guests of one network reach each other without connection tracking.
 */
import type { Connection, ConnectionFilter } from '../../../host/netlink/connection-messages.ts';
import { isGroupOrReserved, isLoopback, networkAddresses } from '../../../net/policy/addresses.ts';
import { ANY_ADDRESS, hasForwarding } from '../../../net/policy/forwarding.ts';
import { openToHost } from '../../../net/policy/isolation.ts';
import { isMetadata, METADATA_SERVICES } from '../../../net/policy/metadata.ts';
import { type SubnetLike, subnetContains } from '../../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../../wire/dhcpv4.ts';
import { IpProtocol } from '../../../wire/ipv4.ts';
import type { DesiredNetwork, DesiredState } from '../../engine.ts';
import { DHCP_PORTS, DNS_PORT } from '../names.ts';
import type { RuledNic } from './rule-input.ts';

/** NICs without addresses that are remembered; the one that had some longest ago is forgotten first. */
const MAX_REMEMBERED = 4096;

/** A NIC as its connections depend on it. */
interface ConnectedNic {
  /** A NIC that returns to another network has left this one. */
  network: string;
  addresses: readonly number[];
  /** It has them now; else it may return with them. */
  present: boolean;
}

/** Where a forwarding rule leads to. */
interface Forward {
  ip: number;
  port: number;
  /** Addresses of the guest that it still answers for. */
  live: readonly number[];
}

/** What connections depend on. */
export interface ConnectionFacts {
  networks: readonly DesiredNetwork[];
  /** By id. */
  nics: ReadonlyMap<string, ConnectedNic>;
  /** Id and network of the NIC that has an address. */
  owners: ReadonlyMap<number, string>;
  /** Addresses leased to VMs that are not attached. */
  absent: ReadonlySet<number>;
  /** By `forwardKey`. */
  forwards: ReadonlyMap<string, Forward>;
  /** Addresses of isolated NICs: what the host may open there, by `portKey`. */
  isolated: ReadonlyMap<number, ReadonlySet<string>>;
  metadata: boolean;
}

const protocolOf = (name: 'tcp' | 'udp'): number => (name === 'tcp' ? IpProtocol.tcp : IpProtocol.udp);
export const portKey = (protocol: number, port: number): string => `${protocol} ${port}`;
const forwardKey = (protocol: number, hostIp: number, port: number): string => `${protocol} ${port} ${hostIp}`;
const ownerOf = (id: string, { network }: ConnectedNic): string => `${id} ${network}`;

/**
 * The facts of now. `before`: what was known of NICs that are not attached now. A NIC that lost all its addresses, as
 * its VM was stopped or suspended, may return with the same ones.
 */
export function connectionFacts(desired: DesiredState, nics: readonly RuledNic[], absent: readonly number[], before: ConnectionFacts | null): ConnectionFacts {
  // without networks there are no NICs: those that return are compared with what was before
  const networks = desired.networks.length > 0 ? desired.networks : (before?.networks ?? []);
  const kept = ({ addresses }: ConnectedNic): number[] => addresses.filter((ip) => networks.some((n) => subnetContains(n.subnet, ip)));
  const connected = new Map<string, ConnectedNic>();
  for (const [id, nic] of before?.nics ?? []) if (kept(nic).length > 0) connected.set(id, { ...nic, addresses: kept(nic), present: false });
  for (const { nic, addresses } of nics) {
    const network = nic.type === 'bridge' ? `bridge ${nic.bridge ?? ''} ${nic.vlan ?? ''}` : nic.type;
    const old = connected.get(nic.id);
    connected.delete(nic.id);
    if (addresses.length > 0) connected.set(nic.id, { network, addresses, present: true });
    else if (old?.network === network) connected.set(nic.id, old);
  }
  for (const id of connected.keys()) {
    if (connected.size <= nics.length + MAX_REMEMBERED) break;
    connected.delete(id);
  }
  return {
    networks,
    nics: connected,
    owners: ownersOf(connected),
    absent: new Set(absent),
    forwards: forwardsOf(nics),
    isolated: isolatedOf(nics),
    metadata: desired.metadata === true,
  };
}

/** A NIC that has the address comes before one that had it earlier. */
function ownersOf(nics: ReadonlyMap<string, ConnectedNic>): Map<number, string> {
  const owners = new Map<number, string>();
  for (const present of [false, true])
    for (const [id, nic] of nics) if (nic.present === present) for (const ip of nic.addresses) owners.set(ip, ownerOf(id, nic));
  return owners;
}

function forwardsOf(nics: readonly RuledNic[]): Map<string, Forward> {
  const forwards = new Map<string, Forward>();
  for (const { nic, ip, live } of nics) {
    if (ip === null || !hasForwarding(nic.type)) continue;
    for (const { protocol, hostIp, hostPort, guestPort } of nic.rules)
      if (typeof hostIp === 'number')
        forwards.set(forwardKey(protocolOf(protocol), hostIp, hostPort), { ip, port: guestPort, live: [...new Set([ip, ...live])] });
  }
  return forwards;
}

function isolatedOf(nics: readonly RuledNic[]): Map<number, Set<string>> {
  const isolated = nics.filter(({ nic }) => nic.isolated);
  return new Map(
    isolated.flatMap(({ nic, addresses }) => {
      const ports = openToHost(nic.rules).map((r) => portKey(protocolOf(r.protocol), r.guestPort));
      return addresses.map((ip) => [ip, new Set([portKey(IpProtocol.udp, DHCP_CLIENT_PORT), ...ports])] as const);
    }),
  );
}

/** What a change can have made stale. */
export interface ConnectionChanges {
  /** Addresses whose NIC has lost them. */
  lost: ReadonlySet<number>;
  /** Addresses of NICs that are isolated now, or whose rules open fewer ports to the host. */
  isolated: readonly number[];
  /** Connections to be read. */
  filters: readonly ConnectionFilter[];
}

export function changesBetween(before: ConnectionFacts, now: ConnectionFacts): ConnectionChanges {
  const lost = new Set([...before.owners].flatMap(([ip, owner]) => (now.owners.get(ip) === owner ? [] : [ip])));
  const isolated = [...now.isolated].flatMap(([ip, ports]) => {
    const old = before.isolated.get(ip);
    const narrower = old ? [...old].some((p) => !ports.has(p)) : true;
    return narrower && before.owners.has(ip) ? [ip] : [];
  });
  const ofAddresses = [...lost, ...isolated].flatMap((ip) => [{ source: ip }, { responder: ip }]);
  const closed = before.metadata && !now.metadata ? METADATA_SERVICES.map((destination) => ({ destination })) : [];
  return { lost, isolated, filters: [...ofAddresses, ...closed, ...filtersOfForwards(before.forwards, now.forwards)] };
}

/** A listener's answer may have made an entry of its own, in the other direction. */
function filtersOfForwards(before: ConnectionFacts['forwards'], now: ConnectionFacts['forwards']): ConnectionFilter[] {
  const changed = new Set<string>();
  for (const key of new Set([...before.keys(), ...now.keys()])) {
    const [old, current] = [before.get(key), now.get(key)];
    const same = old && current && old.ip === current.ip && old.port === current.port && old.live.every((ip) => current.live.includes(ip));
    if (!same) changed.add(key.split(' ', 2).join(' '));
  }
  return [...changed].flatMap((key): ConnectionFilter[] => {
    const [protocol, port] = key.split(' ').map(Number) as [number, number];
    const clients = { protocol, destinationPort: port };
    return protocol === IpProtocol.udp ? [clients, { protocol, sourcePort: port }] : [clients];
  });
}

export class ConnectionPolicy {
  readonly #facts: ConnectionFacts;
  readonly #host: ReadonlySet<number>;
  readonly #shared: SubnetLike | undefined;
  /** Addresses of the networks that are no guest's. */
  readonly #reserved: ReadonlySet<number>;

  /** `hostAddresses`: the host's own. */
  constructor(facts: ConnectionFacts, hostAddresses: ReadonlySet<number>) {
    this.#facts = facts;
    this.#host = hostAddresses;
    this.#shared = facts.networks.find((n) => n.name === 'shared')?.subnet;
    this.#reserved = new Set(facts.networks.flatMap((n) => networkAddresses(n.subnet)));
  }

  isStale(c: Connection): boolean {
    return this.#isOrphaned(c) || this.#isIsolated(c) || this.#isBarred(c) || this.#isUntranslated(c) || this.#isMisled(c);
  }

  #isInside(ip: number): boolean {
    for (const n of this.#facts.networks) if (subnetContains(n.subnet, ip)) return true;
    return false;
  }

  #isGuest(ip: number): boolean {
    return this.#isInside(ip) && !this.#reserved.has(ip);
  }

  #isOwned(ip: number): boolean {
    return this.#facts.owners.has(ip) || this.#facts.absent.has(ip);
  }

  /** Its guest's address is nobody's. */
  #isOrphaned({ source, responder }: Connection): boolean {
    return (this.#isGuest(source) && !this.#isOwned(source)) || (this.#isGuest(responder) && !this.#isOwned(responder));
  }

  #isLocal(ip: number): boolean {
    return this.#host.has(ip) || this.#isInside(ip);
  }

  /** Between an isolated NIC and the host or another NIC, and nothing that rules let through. */
  #isIsolated({ protocol, source, responder, responderPort }: Connection): boolean {
    const { isolated } = this.#facts;
    if (isolated.has(source) && this.#isLocal(responder) && !isService(protocol, responderPort)) return true;
    const open = isolated.get(responder);
    return open !== undefined && this.#isLocal(source) && !open.has(portKey(protocol, responderPort));
  }

  #isBarred({ source, destination }: Connection): boolean {
    return !this.#facts.metadata && isMetadata(destination) && this.#isGuest(source);
  }

  #isUntranslated({ source, destination, replyTo }: Connection): boolean {
    if (this.#shared === undefined || replyTo !== source || !subnetContains(this.#shared, source) || !this.#isGuest(source)) return false;
    return !this.#isLocal(destination) && !isLoopback(destination) && !isGroupOrReserved(destination);
  }

  /** It leads elsewhere than a new one would. Guests' connections to the host's ports are carried by the listeners. */
  #isMisled(c: Connection): boolean {
    const { protocol, source, destination, destinationPort, responder, responderPort } = c;
    if ((protocol !== IpProtocol.tcp && protocol !== IpProtocol.udp) || this.#isGuest(source)) return false;
    const forward = this.#forwardOf(protocol, destination, destinationPort);
    const translated = responder !== destination || responderPort !== destinationPort;
    if (translated && this.#isGuest(responder)) {
      if (!forward || forward.port !== responderPort) return true;
      return protocol === IpProtocol.tcp ? !forward.live.includes(responder) : responder !== forward.ip;
    }
    if (protocol !== IpProtocol.udp) return false;
    if (forward && this.#isReachable(destination)) return responder !== forward.ip || responderPort !== forward.port;
    // an answer of the rule's listener
    return this.#isReachable(source) && !this.#isLocal(destination) && this.#forwardOf(protocol, source, c.sourcePort) !== undefined;
  }

  /** An address of the host where rules take clients. */
  #isReachable(ip: number): boolean {
    return this.#host.has(ip) && !isLoopback(ip);
  }

  #forwardOf(protocol: number, ip: number, port: number): Forward | undefined {
    const { forwards } = this.#facts;
    return forwards.get(forwardKey(protocol, ip, port)) ?? forwards.get(forwardKey(protocol, ANY_ADDRESS, port));
  }
}

/** What an isolated guest may ask of the host, by the port of the service that answers. */
function isService(protocol: number, port: number): boolean {
  if (port === DNS_PORT) return protocol === IpProtocol.udp || protocol === IpProtocol.tcp;
  return protocol === IpProtocol.udp && (port === DHCP_PORTS.shared || port === DHCP_PORTS.host);
}
