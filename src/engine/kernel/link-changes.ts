/**
 * Which messages of rtnetlink concern us: pure, but for what it has seen before.
 *
 * Theory of operation: a host may have containers that come and go all the time. Of their interfaces only the name is
 * kept. A message concerns us if it is about an interface of ours, or one that VMs are bridged to, and changes what the
 * engine compares; or if it adds a default route, or the first route by an interface, for which the engine sets a
 * kernel setting (network-sysctls.ts). A message that repeats what was known is none.
 *
 * Limits: the first route by an interface does not count if it leads to a single machine, as those to containers do:
 * the periodic check finds it.
 */

import { parseAddress } from '../../host/netlink/address-messages.ts';
import { AttributeReader } from '../../host/netlink/attribute-reader.ts';
import { type LinkMessage, parseLink } from '../../host/netlink/link-messages.ts';
import type { NetlinkMessage } from '../../host/netlink/netlink.ts';
import { parseRoute, type RouteMessage, UNICAST } from '../../host/netlink/route-messages.ts';
import { AF_BRIDGE } from '../../host/netlink/rtnetlink.ts';
import { parseTrafficControl } from '../../host/netlink/tc-messages.ts';
import { GROUP, LABEL, OUR_NAME } from './names.ts';

const RTM = { newLink: 16, delLink: 17, newAddress: 20, delAddress: 21, newRoute: 24, delRoute: 25 } as const;
/** RTM_NEWQDISC to RTM_DELTFILTER. */
const TRAFFIC_CONTROL = { first: 36, last: 45 } as const;
/** IFF_UP, IFF_PROMISC, IFF_ALLMULTI. */
const COMPARED_FLAGS = 0x1 | 0x100 | 0x200;
/** State of a bridge's port, in a message of family AF_BRIDGE. */
const PROTOCOL_INFO = 12;
const PORT_STATE = 1;
const SINGLE_MACHINE = 32;

interface KnownLink {
  name: string;
  isOurs: boolean;
  /** What the engine compares; empty if it is not watched. */
  compared: string;
  portState: number;
}

export class LinkChanges {
  readonly #links = new Map<number, KnownLink>();
  /** Indexes of interfaces with a route. */
  readonly #routed = new Set<number>();
  /** Names of the host's interfaces that VMs are bridged to. */
  #watched: ReadonlySet<string> = new Set();

  /** Sets the names of the host's interfaces that count, in addition to ours. */
  watch(names: Iterable<string>): void {
    this.#watched = new Set(names);
  }

  /** Begins anew, from what the host has. */
  reset(links: readonly LinkMessage[], routes: readonly RouteMessage[]): void {
    this.#links.clear();
    this.#routed.clear();
    for (const l of links) this.#links.set(l.index, this.#known(l));
    for (const r of routes) if (r.type === UNICAST) for (const index of r.interfaces) this.#routed.add(index);
  }

  /** Whether what the message reports concerns us. */
  concerns({ type, body }: NetlinkMessage): boolean {
    if (type === RTM.newLink || type === RTM.delLink) return body[0] === AF_BRIDGE ? this.#portChanged(body) : this.#linkChanged(type, body);
    if (type === RTM.newAddress || type === RTM.delAddress) return this.#isWatched(parseAddress(body)?.index ?? 0);
    if (type === RTM.newRoute || type === RTM.delRoute) return this.#routeChanged(type, body);
    if (type < TRAFFIC_CONTROL.first || type > TRAFFIC_CONTROL.last) return false;
    return this.#isWatched(parseTrafficControl(body)?.index ?? 0);
  }

  #known(l: LinkMessage): KnownLink {
    const isOurs = l.alias.startsWith(LABEL) || l.group === GROUP || OUR_NAME.test(l.name);
    const { index, address, mtu, group, alias, master, below, kind, macvlanMode, bridge, port } = l;
    const state = [index, l.flags & COMPARED_FLAGS, address, mtu, group, alias, master, below, kind, macvlanMode, bridge?.stpState, port?.state];
    return { name: l.name, isOurs, compared: isOurs || this.#watched.has(l.name) ? state.join() : '', portState: port?.state ?? -1 };
  }

  #isWatched(index: number): boolean {
    const link = this.#links.get(index);
    return link !== undefined && (link.isOurs || this.#watched.has(link.name));
  }

  #linkChanged(type: number, body: Buffer): boolean {
    const message = parseLink(body);
    if (message === null) return false;
    const { index } = message;
    const wasWatched = this.#isWatched(index);
    const before = this.#links.get(index);
    if (type === RTM.delLink) {
      this.#links.delete(index);
      this.#routed.delete(index);
      return wasWatched;
    }
    const now = this.#known(message);
    this.#links.set(index, now);
    return (wasWatched || this.#isWatched(index)) && (before?.compared !== now.compared || before.name !== now.name);
  }

  /** Such a message of type RTM_DELLINK means that the interface is in no bridge any more, of which others report. */
  #portChanged(body: Buffer): boolean {
    const message = parseLink(body);
    const link = message && this.#links.get(message.index);
    if (!message || !link) return false;
    const state = new AttributeReader(body, LINK_HEADER).nested(PROTOCOL_INFO).u8(PORT_STATE) ?? -1;
    const isChange = link.portState !== state;
    link.portState = state;
    return isChange && this.#isWatched(message.index);
  }

  #routeChanged(type: number, body: Buffer): boolean {
    const route = parseRoute(body);
    if (route?.type !== UNICAST) return false;
    if (route.interfaces.some((index) => this.#isWatched(index))) return true;
    if (type === RTM.delRoute) return false;
    const isFirst = route.interfaces.some((index) => !this.#routed.has(index));
    if (route.prefix === SINGLE_MACHINE) return false;
    for (const index of route.interfaces) this.#routed.add(index);
    return isFirst || route.prefix === 0;
  }
}

/** Length of struct ifinfomsg. */
const LINK_HEADER = 16;
