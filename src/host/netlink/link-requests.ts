/**
 * Changes of interfaces, their addresses and routes: all but the creation of a tap as messages of rtnetlink(7).
 *
 * Theory of operation: a change is an object that names interfaces; its message needs their indexes, which are read
 * when it is sent. The kernel applies the settings of one message in an order of its own, so callers split what depends
 * on each other.
 */
import { AnkaError } from '../../lib/errors.ts';
import { gatewayOf, type SubnetLike } from '../../wire/address.ts';
import { demandInterface } from '../ethernet.ts';
import { createTap } from '../ffi/tap.ts';
import { AF_INET, AF_INET6, attribute, CREATE, CREATE_OR_CHANGE, reasonOf, u32 } from './netlink.ts';
import { changeRtnetlink } from './rtnetlink.ts';

/** By `ip`'s names of the modes (MACVLAN_MODE_*). */
const MACVLAN_MODES = { private: 1, bridge: 4 } as const;
export type MacvlanMode = keyof typeof MACVLAN_MODES;

/** What is set of an interface that exists. What is missing stays. */
export interface LinkSettings {
  up?: boolean;
  arp?: boolean;
  promiscuous?: boolean;
  allMulticast?: boolean;
  mtu?: number;
  /** The bridge that it becomes a port of; null for none. */
  master?: string | null;
  alias?: string;
  /** Another name; the interface has to be down. */
  name?: string;
  group?: number;
  /** As `ip` prints it. */
  mac?: string;
  /** It gets no link-local IPv6 address. */
  withoutIpv6Address?: boolean;
  /** As a port of a bridge that forwards (BR_STATE_FORWARDING). */
  forwarding?: boolean;
  /** Of a macvlan. */
  mode?: MacvlanMode;
}

/** `name`: the interface. Bridges are created without spanning tree and multicast snooping. */
export type LinkChange =
  /** A tap is created by a device, not by netlink. `owner`: user id that may open it. */
  { change: 'add tap'; name: string; owner: number; multiQueue: boolean } | LinkMessageChange;

export type LinkMessageChange =
  | { change: 'add bridge'; name: string; group: number; mac?: string }
  | { change: 'add veth'; name: string; group: number; peer: string }
  | { change: 'add macvlan'; name: string; group: number; mac: string; below: string; mode: MacvlanMode }
  | { change: 'delete'; name: string }
  | { change: 'set'; name: string; set: LinkSettings }
  | { change: 'add address' | 'delete address'; name: string; address: number; prefix: number }
  /** The route to a subnet that the kernel adds with the address of its gateway, behind other routes to it. */
  | { change: 'append route'; name: string; subnet: SubnetLike };

const RTM = { newLink: 16, delLink: 17, newAddress: 20, delAddress: 21, newRoute: 24 } as const;
/** With NLM_F_APPEND. */
const APPEND = CREATE_OR_CHANGE | 0x800;
const NESTED = 0x8000;
const IFLA = { address: 1, name: 3, mtu: 4, link: 5, master: 10, linkInfo: 18, alias: 20, families: 26, group: 27 } as const;
const INFO = { kind: 1, data: 2, portKind: 4, portData: 5 } as const;
const BRIDGE = { forwardDelay: 1, stpState: 5, multicastSnooping: 23 } as const;
const MACVLAN_MODE = 1;
const VETH_PEER = 1;
const PORT_STATE = 1;
const BR_STATE_FORWARDING = 3;
const ADDRESS_GENERATION = 8;
const IN6_ADDR_GEN_MODE_NONE = 1;
const IFF = { up: 0x1, noArp: 0x80, promiscuous: 0x100, allMulticast: 0x200 } as const;
const IFA = { address: 1, local: 2, broadcast: 4 } as const;
const RTA = { destination: 1, outputInterface: 4, preferredSource: 7 } as const;
/** RT_TABLE_MAIN, RTPROT_KERNEL, RT_SCOPE_LINK, RTN_UNICAST: fields of struct rtmsg from offset 4. */
const KERNEL_ROUTE = [254, 2, 253, 1];

/** A message without its header. `flags`: NLM_F_*. */
export interface LinkRequest {
  type: number;
  flags: number;
  body: Buffer;
}

/** Makes the changes in their order. Stops at the first that fails, and throws what it was and the kernel's reason. */
export function changeLinks(changes: readonly LinkChange[]): void {
  for (const change of changes) {
    if (change.change === 'add tap') {
      createTap(change.name, change.owner, change.multiQueue);
      continue;
    }
    const { type, flags, body } = requestOf(change, demandInterface);
    try {
      changeRtnetlink(type, flags, body);
    } catch (cause) {
      throw new AnkaError('network', `${titleOf(change)}: ${reasonOf(cause)}`, { cause });
    }
  }
}

/** What is changed, in words. */
function titleOf(change: LinkMessageChange): string {
  if (change.change !== 'set') return `${change.change} ${change.name}`;
  return `set ${change.name} ${Object.entries(change.set)
    .map(([setting, value]) => `${setting} ${value}`)
    .join(' ')}`;
}

/** `indexOf`: throws for an interface that does not exist. */
export function requestOf(change: LinkMessageChange, indexOf: (name: string) => number): LinkRequest {
  switch (change.change) {
    case 'add bridge':
    case 'add veth':
    case 'add macvlan':
      return { type: RTM.newLink, flags: CREATE, body: added(change, indexOf) };
    case 'delete':
      return { type: RTM.delLink, flags: 0, body: linkHeader(indexOf(change.name)) };
    case 'set':
      return { type: RTM.newLink, flags: 0, body: settings(indexOf(change.name), change.set, indexOf) };
    case 'add address':
      return { type: RTM.newAddress, flags: CREATE, body: addressBody(indexOf(change.name), change) };
    case 'delete address':
      return { type: RTM.delAddress, flags: 0, body: addressBody(indexOf(change.name), change) };
    case 'append route':
      return { type: RTM.newRoute, flags: APPEND, body: routeBody(indexOf(change.name), change.subnet) };
  }
}

type Added = Extract<LinkMessageChange, { change: `add ${'bridge' | 'veth' | 'macvlan'}` }>;

function added(change: Added, indexOf: (name: string) => number): Buffer {
  const parts = [linkHeader(0), text(IFLA.name, change.name), attribute(IFLA.group, u32(change.group))];
  if ('mac' in change && change.mac !== undefined) parts.push(attribute(IFLA.address, macBytes(change.mac)));
  if (change.change === 'add macvlan') parts.push(attribute(IFLA.link, u32(indexOf(change.below))));
  return Buffer.concat([...parts, kindOf(change)]);
}

function kindOf(change: Added): Buffer {
  if (change.change === 'add veth') return info('veth', attribute(VETH_PEER, Buffer.concat([linkHeader(0), text(IFLA.name, change.peer)])));
  if (change.change === 'add macvlan') return info('macvlan', attribute(MACVLAN_MODE, u32(MACVLAN_MODES[change.mode])));
  const off = [attribute(BRIDGE.forwardDelay, u32(0)), attribute(BRIDGE.stpState, u32(0)), attribute(BRIDGE.multicastSnooping, Buffer.of(0))];
  return info('bridge', ...off);
}

function settings(index: number, set: LinkSettings, indexOf: (name: string) => number): Buffer {
  const head = linkHeader(index);
  let flags = 0;
  let mask = 0;
  const flag = (bit: number, on: boolean | undefined): void => {
    if (on === undefined) return;
    mask |= bit;
    if (on) flags |= bit;
  };
  flag(IFF.up, set.up);
  flag(IFF.noArp, set.arp === undefined ? undefined : !set.arp);
  flag(IFF.promiscuous, set.promiscuous);
  flag(IFF.allMulticast, set.allMulticast);
  head.writeUInt32LE(flags, 8);
  head.writeUInt32LE(mask, 12);
  const parts = [head];
  if (set.mac !== undefined) parts.push(attribute(IFLA.address, macBytes(set.mac)));
  if (set.mtu !== undefined) parts.push(attribute(IFLA.mtu, u32(set.mtu)));
  if (set.group !== undefined) parts.push(attribute(IFLA.group, u32(set.group)));
  if (set.name !== undefined) parts.push(text(IFLA.name, set.name));
  if (set.alias !== undefined) parts.push(attribute(IFLA.alias, Buffer.from(set.alias)));
  if (set.master !== undefined) parts.push(attribute(IFLA.master, u32(set.master === null ? 0 : indexOf(set.master))));
  if (set.withoutIpv6Address) parts.push(nested(IFLA.families, nested(AF_INET6, attribute(ADDRESS_GENERATION, Buffer.of(IN6_ADDR_GEN_MODE_NONE)))));
  if (set.mode !== undefined) parts.push(info('macvlan', attribute(MACVLAN_MODE, u32(MACVLAN_MODES[set.mode]))));
  if (set.forwarding)
    parts.push(nested(IFLA.linkInfo, text(INFO.portKind, 'bridge'), nested(INFO.portData, attribute(PORT_STATE, Buffer.of(BR_STATE_FORWARDING)))));
  return Buffer.concat(parts);
}

function addressBody(index: number, { address, prefix }: { address: number; prefix: number }): Buffer {
  const head = Buffer.alloc(8); // struct ifaddrmsg
  head[0] = AF_INET;
  head[1] = prefix;
  head.writeUInt32LE(index, 4);
  const broadcast = (address | (0xffffffff >>> prefix)) >>> 0;
  const parts = [attribute(IFA.local, u32(address, true)), attribute(IFA.address, u32(address, true))];
  if (prefix < 31) parts.push(attribute(IFA.broadcast, u32(broadcast, true)));
  return Buffer.concat([head, ...parts]);
}

function routeBody(index: number, subnet: SubnetLike): Buffer {
  const head = Buffer.alloc(12); // struct rtmsg
  head[0] = AF_INET;
  head[1] = subnet.prefix;
  head.set(KERNEL_ROUTE, 4);
  const parts = [attribute(RTA.destination, u32(subnet.base, true)), attribute(RTA.outputInterface, u32(index))];
  return Buffer.concat([head, ...parts, attribute(RTA.preferredSource, u32(gatewayOf(subnet), true))]);
}

/** struct ifinfomsg of an interface; of index 0, one that is created. */
function linkHeader(index: number): Buffer {
  const head = Buffer.alloc(16);
  head.writeInt32LE(index, 4);
  return head;
}

const text = (type: number, value: string): Buffer => attribute(type, Buffer.from(`${value}\0`));
const nested = (type: number, ...parts: Buffer[]): Buffer => attribute(type | NESTED, Buffer.concat(parts));
const info = (kind: string, ...data: Buffer[]): Buffer => nested(IFLA.linkInfo, text(INFO.kind, kind), nested(INFO.data, ...data));

const macBytes = (mac: string): Buffer => Buffer.from(mac.replaceAll(':', ''), 'hex');
