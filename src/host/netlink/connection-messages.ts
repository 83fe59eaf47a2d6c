/**
 * Entries of the kernel's connection table as netlink has them (nfnetlink_conntrack.h): parsing, and filters of a dump.
 *
 * Limits: IPv4.
 */
import { message } from './netfilter.ts';
import { attribute, DUMP, u32 } from './netlink.ts';

const CT_GET = 0x0101;
const NESTED = 0x8000;
const TYPE = 0x3fff;
// attributes of an entry
export const ORIGINAL = 1;
const REPLY = 2;
const FILTER = 25;
// of a tuple
const TUPLE_IP = 1;
const TUPLE_PROTO = 2;
const IP_SOURCE = 1;
const IP_DESTINATION = 2;
const PROTO_NUMBER = 1;
const PROTO_SOURCE_PORT = 2;
const PROTO_DESTINATION_PORT = 3;
/** Flags of a filter, for each direction: which fields of the tuple count. */
const BY = { source: 1, destination: 2, protocol: 8, sourcePort: 16, destinationPort: 32 };

/** A connection as its first packet made it, and its replies. Addresses in host order; a missing port is 0. */
export interface Connection extends Tuple {
  /** Source of the replies: differs from the destination where that was translated. */
  responder: number;
  responderPort: number;
  /** Destination of the replies: differs from the source where that was translated. */
  replyTo: number;
}

/** Which entries are read: those with all of these values. A port needs a protocol. */
export type ConnectionFilter = Partial<Omit<Connection, 'responderPort' | 'replyTo'>>;

/** Offset of the first attribute of that type, or -1. */
export function find(b: Buffer, start: number, end: number, type: number): number {
  for (let at = start; at + 4 <= end; ) {
    const length = b.readUInt16LE(at);
    if (length < 4 || at + length > end) return -1;
    if ((b.readUInt16LE(at + 2) & TYPE) === type) return at;
    at += Math.ceil(length / 4) * 4;
  }
  return -1;
}

/** Offset of the payload of an attribute inside of another one; -1 if there is none of `size` bytes. */
function inside(b: Buffer, outer: number, type: number, size: number): number {
  const at = outer < 0 ? -1 : find(b, outer + 4, outer + b.readUInt16LE(outer), type);
  return at < 0 || b.readUInt16LE(at) < 4 + size ? -1 : at + 4;
}

/** One direction of a connection. Addresses and ports are in host order; a missing port is 0. */
export interface Tuple {
  /** IP protocol number. */
  protocol: number;
  source: number;
  sourcePort: number;
  destination: number;
  destinationPort: number;
}

/** One direction of an IPv4 entry; null if it is none. */
export function parseTuple(b: Buffer, tuple: number): Tuple | null {
  const ip = tuple < 0 ? -1 : find(b, tuple + 4, tuple + b.readUInt16LE(tuple), TUPLE_IP);
  const proto = tuple < 0 ? -1 : find(b, tuple + 4, tuple + b.readUInt16LE(tuple), TUPLE_PROTO);
  const source = inside(b, ip, IP_SOURCE, 4);
  const destination = inside(b, ip, IP_DESTINATION, 4);
  const protocol = inside(b, proto, PROTO_NUMBER, 1);
  if (source < 0 || destination < 0 || protocol < 0) return null;
  const portAt = (type: number): number => {
    const at = inside(b, proto, type, 2);
    return at < 0 ? 0 : b.readUInt16BE(at);
  };
  return {
    protocol: b.readUInt8(protocol),
    source: b.readUInt32BE(source),
    sourcePort: portAt(PROTO_SOURCE_PORT),
    destination: b.readUInt32BE(destination),
    destinationPort: portAt(PROTO_DESTINATION_PORT),
  };
}

/** One message of a dump, without its headers; null if it is no IPv4 entry. */
export function parseEntry(body: Buffer): Connection | null {
  const original = parseTuple(body, find(body, 0, body.length, ORIGINAL));
  const reply = parseTuple(body, find(body, 0, body.length, REPLY));
  if (!original || !reply) return null;
  return { ...original, responder: reply.source, responderPort: reply.sourcePort, replyTo: reply.destination };
}

function u16(value: number): Buffer {
  const b = Buffer.alloc(2);
  b.writeUInt16BE(value);
  return b;
}

/** The attributes of a dump's request. */
function encode({ protocol, source, sourcePort, destination, destinationPort, responder }: ConnectionFilter): Buffer {
  const set = (by: keyof typeof BY, value: number | undefined): number => (value === undefined ? 0 : BY[by]);
  const field = (type: number, value: Buffer | undefined): Buffer => (value ? attribute(type, value) : Buffer.alloc(0));
  const address = (value?: number): Buffer | undefined => (value === undefined ? undefined : u32(value, true));
  const port = (value?: number): Buffer | undefined => (value === undefined ? undefined : u16(value));
  const ip = Buffer.concat([field(IP_SOURCE, address(source)), field(IP_DESTINATION, address(destination))]);
  const proto = Buffer.concat([
    field(PROTO_NUMBER, protocol === undefined ? undefined : Buffer.of(protocol)),
    field(PROTO_SOURCE_PORT, port(sourcePort)),
    field(PROTO_DESTINATION_PORT, port(destinationPort)),
  ]);
  const nested = (type: number, value: Buffer): Buffer => (value.length === 0 ? value : attribute(type | NESTED, value));
  const flags =
    set('protocol', protocol) |
    set('source', source) |
    set('sourcePort', sourcePort) |
    set('destination', destination) |
    set('destinationPort', destinationPort);
  return Buffer.concat([
    nested(ORIGINAL, Buffer.concat([nested(TUPLE_IP, ip), nested(TUPLE_PROTO, proto)])),
    nested(REPLY, nested(TUPLE_IP, field(IP_SOURCE, address(responder)))),
    attribute(FILTER | NESTED, Buffer.concat([attribute(ORIGINAL, u32(flags)), attribute(REPLY, u32(set('source', responder)))])),
  ]);
}

/** Asks for the entries that the filter lets through (Linux 5.8 and later; older kernels send all); null: for all. */
export function connectionDump(filter: ConnectionFilter | null): Buffer {
  return message(CT_GET, DUMP, filter === null ? Buffer.alloc(0) : encode(filter));
}
