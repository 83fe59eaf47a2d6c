/** IPv4 routes as the kernel describes them (RTM_NEWROUTE, rtnetlink(7)). */
import { AttributeReader } from './attribute-reader.ts';
import { AF_INET, CREATE } from './netlink.ts';
import { changeRtnetlink, dumpRtnetlink } from './rtnetlink.ts';

const RTM_NEWROUTE = 24;
const RTM_GETROUTE = 26;
/** struct rtmsg: offsets, and its length. */
const PREFIX = 1;
const TABLE = 4;
const TYPE = 7;
const FLAGS = 8;
const HEADER = 12;
const RTA = { destination: 1, outputInterface: 4, gateway: 5, priority: 6, multipath: 9, table: 15 } as const;
/** A cached exception of another route, as after an ICMP redirect. */
const RTM_F_CLONED = 0x200;
/** RTN_UNICAST */
export const UNICAST = 1;
/** RT_TABLE_MAIN */
export const MAIN_TABLE = 254;
/** struct rtnexthop: offset of the interface's index, and its length. */
const NEXT_HOP_INDEX = 4;
const NEXT_HOP = 8;

export interface RouteMessage {
  /** In host order. */
  base: number;
  prefix: number;
  table: number;
  /** RTN_*. */
  type: number;
  /** Indexes of the interfaces that it leads through: several of a multipath route. */
  interfaces: number[];
}

/** Routes of all tables. Throws where netlink is not available. */
export function readRoutes(): RouteMessage[] {
  return dumpRoutes().flatMap((body) => parseRoute(body) ?? []);
}

function dumpRoutes(): Buffer[] {
  const header = Buffer.alloc(HEADER);
  header[0] = AF_INET;
  return dumpRtnetlink(RTM_GETROUTE, header);
}

/** A default route of the main table. */
export interface DefaultRouteMessage {
  /** As the kernel takes it again, without its state. */
  message: Buffer;
  /** In host order; null for none, as of a multipath route. */
  gateway: number | null;
  /** Indexes, as `RouteMessage`. */
  interfaces: number[];
  /** The lowest counts. */
  metric: number;
}

/** Throws where netlink is not available. */
export function readDefaultRoutes(): DefaultRouteMessage[] {
  return dumpRoutes().flatMap((body) => parseDefaultRoute(body) ?? []);
}

/** Null: it is another route. */
export function parseDefaultRoute(body: Buffer): DefaultRouteMessage | null {
  const route = parseRoute(body);
  if (route?.prefix !== 0 || route.table !== MAIN_TABLE) return null;
  const message = Buffer.from(body);
  message.writeUInt32LE(0, FLAGS);
  const all = new AttributeReader(body, HEADER);
  return { message, gateway: all.ipv4(RTA.gateway), interfaces: route.interfaces, metric: all.u32(RTA.priority) ?? 0 };
}

/** Adds a route that `readDefaultRoutes` has read. Throws the kernel's errors. */
export function addRoute(message: Buffer): void {
  changeRtnetlink(RTM_NEWROUTE, CREATE, message);
}

/** Null: it is no IPv4 route. */
export function parseRoute(body: Buffer): RouteMessage | null {
  if (body.length < HEADER || body[0] !== AF_INET || (body.readUInt32LE(FLAGS) & RTM_F_CLONED) !== 0) return null;
  const all = new AttributeReader(body, HEADER);
  const out = all.u32(RTA.outputInterface);
  return {
    base: all.ipv4(RTA.destination) ?? 0,
    prefix: body.readUInt8(PREFIX),
    table: all.u32(RTA.table) ?? body.readUInt8(TABLE),
    type: body.readUInt8(TYPE),
    interfaces: out === null ? nextHops(all.bytes(RTA.multipath)) : [out],
  };
}

function nextHops(b: Buffer | null): number[] {
  const found: number[] = [];
  for (let at = 0; b && at + NEXT_HOP <= b.length; ) {
    const length = b.readUInt16LE(at);
    if (length < NEXT_HOP || at + length > b.length) break;
    found.push(b.readInt32LE(at + NEXT_HOP_INDEX));
    at += Math.ceil(length / 4) * 4;
  }
  return found;
}
