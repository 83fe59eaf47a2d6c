/** Interfaces as the kernel describes them (RTM_NEWLINK, rtnetlink(7)). */
import { AttributeReader } from './attribute-reader.ts';
import { attribute, u32 } from './netlink.ts';
import { dumpRtnetlink } from './rtnetlink.ts';

const RTM_GETLINK = 18;
/** struct ifinfomsg: offsets, and its length. */
const INDEX = 4;
const FLAGS = 8;
const HEADER = 16;
const IFLA = {
  address: 1,
  name: 3,
  mtu: 4,
  link: 5,
  master: 10,
  linkInfo: 18,
  alias: 20,
  stats64: 23,
  group: 27,
  extMask: 29,
  carrier: 33,
  linkNetnsId: 37,
} as const;
const INFO = { kind: 1, data: 2, portKind: 4, portData: 5 } as const;
const BRIDGE = { forwardDelay: 1, stpState: 5, callsIptables: 36 } as const;
const PORT = { state: 1, forwardDelayTimer: 21 } as const;
const MACVLAN_MODE = 1;
const TUN_MULTI_QUEUE = 7;
/** RTEXT_FILTER_SKIP_STATS */
const SKIP_COUNTERS = 8;
/** Offsets in struct rtnl_link_stats64, and the length that is read. */
const STATS = { rxPackets: 0, txPackets: 8, rxBytes: 16, txBytes: 24, length: 32 } as const;
/** The unit of a bridge's times. */
const CLOCK_TICK_MS = 10;

export interface LinkMessage {
  index: number;
  /** IFF_*. */
  flags: number;
  name: string;
  /** Bytes in hexadecimal, with colons between them. */
  address: string;
  mtu: number;
  group: number;
  alias: string;
  /** Index of the bridge or bond that it is a port of; 0 for none. */
  master: number;
  /** Index of the interface below it, or of the other end of a pair; 0 for none. */
  below: number;
  /** `below` is in another network namespace. */
  belowElsewhere: boolean;
  /** `bridge`, `tun`, `veth`, …; empty for a physical card. */
  kind: string;
  /** MACVLAN_MODE_*; 0 for other kinds. */
  macvlanMode: number;
  bridge: { stpState: number; forwardDelayMs: number; callsIptables: boolean } | null;
  /** A tun or tap: it was created for several queues, and a process has one open. */
  tun: { multiQueue: boolean; isOpen: boolean } | null;
  /** As a port of a bridge. `state`: BR_STATE_*; `timerMs`: time until it leaves that state. */
  port: { state: number; timerMs: number } | null;
}

/** Counters of an interface, as the host sees it. */
export interface LinkCounters {
  name: string;
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
}

/** All interfaces. Throws where netlink is not available. */
export function readLinks(): LinkMessage[] {
  return dumpLinks(SKIP_COUNTERS).flatMap((body) => parseLink(body) ?? []);
}

export function readCounters(): LinkCounters[] {
  return dumpLinks(0).flatMap((body) => parseCounters(body) ?? []);
}

function dumpLinks(mask: number): Buffer[] {
  return dumpRtnetlink(RTM_GETLINK, Buffer.concat([Buffer.alloc(HEADER), attribute(IFLA.extMask, u32(mask))]));
}

/** Null: it is too short, or has no name. */
export function parseLink(body: Buffer): LinkMessage | null {
  if (body.length < HEADER) return null;
  const all = new AttributeReader(body, HEADER);
  const name = all.text(IFLA.name);
  if (name === '') return null;
  const info = all.nested(IFLA.linkInfo);
  const kind = info.text(INFO.kind);
  const data = info.nested(INFO.data);
  return {
    index: body.readInt32LE(INDEX),
    flags: body.readUInt32LE(FLAGS),
    name,
    address: colonHex(all.bytes(IFLA.address)),
    mtu: all.u32(IFLA.mtu) ?? 0,
    group: all.u32(IFLA.group) ?? 0,
    alias: all.text(IFLA.alias),
    master: all.u32(IFLA.master) ?? 0,
    below: all.u32(IFLA.link) ?? 0,
    belowElsewhere: all.has(IFLA.linkNetnsId),
    kind,
    macvlanMode: kind === 'macvlan' ? (data.u32(MACVLAN_MODE) ?? 0) : 0,
    bridge: kind === 'bridge' ? parseBridge(data) : null,
    tun: kind === 'tun' ? { multiQueue: data.u8(TUN_MULTI_QUEUE) === 1, isOpen: all.u8(IFLA.carrier) === 1 } : null,
    port: info.text(INFO.portKind) === 'bridge' ? parsePort(info.nested(INFO.portData)) : null,
  };
}

function parseBridge(data: AttributeReader): LinkMessage['bridge'] {
  return {
    stpState: data.u32(BRIDGE.stpState) ?? 0,
    forwardDelayMs: CLOCK_TICK_MS * (data.u32(BRIDGE.forwardDelay) ?? 0),
    callsIptables: data.u8(BRIDGE.callsIptables) === 1,
  };
}

function parsePort(data: AttributeReader): LinkMessage['port'] {
  return { state: data.u8(PORT.state) ?? 0, timerMs: CLOCK_TICK_MS * (data.u64(PORT.forwardDelayTimer) ?? 0) };
}

/** Null: it has no name or no counters. */
export function parseCounters(body: Buffer): LinkCounters | null {
  if (body.length < HEADER) return null;
  const all = new AttributeReader(body, HEADER);
  const name = all.text(IFLA.name);
  const stats = all.bytes(IFLA.stats64, STATS.length);
  if (name === '' || stats === null) return null;
  const read = (at: number): number => Number(stats.readBigUInt64LE(at));
  return { name, rxPackets: read(STATS.rxPackets), rxBytes: read(STATS.rxBytes), txPackets: read(STATS.txPackets), txBytes: read(STATS.txBytes) };
}

/** A link-layer address as `ip` prints it; empty if there is none. */
export function colonHex(address: Buffer | null): string {
  return address?.toString('hex').replace(/..(?!$)/g, '$&:') ?? '';
}
