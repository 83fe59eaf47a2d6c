/** Forwarding entries of bridges and network cards (RTM_NEWNEIGH of PF_BRIDGE, rtnetlink(7)). */
import { parseMac } from '../../wire/address.ts';
import { AttributeReader } from './attribute-reader.ts';
import { colonHex } from './link-messages.ts';
import { attribute, CREATE } from './netlink.ts';
import { AF_BRIDGE, changeRtnetlink, dumpRtnetlink } from './rtnetlink.ts';

const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;
const RTM_GETNEIGH = 30;
/** struct ndmsg: offsets, and its length. */
const INDEX = 4;
const STATE = 8;
const FLAGS = 10;
const HEADER = 12;
/** struct ifinfomsg, by which a dump is asked for one interface. */
const LINK_HEADER = 16;
const NDA_LLADDR = 2;
const NDA_MASTER = 9;
const NUD_PERMANENT = 0x80;
/** Of the interface itself, or of the bridge that it is a port of. */
export const NTF = { self: 2, master: 4 } as const;

export interface BridgeEntry {
  /** Index of the interface. */
  index: number;
  mac: number;
  permanent: boolean;
  /** NTF_*. */
  flags: number;
  /** It belongs to the bridge that the interface is a port of. */
  ofMaster: boolean;
}

/** Entries of one interface, or of all. Throws where netlink is not available. */
export function readBridgeEntries(index = 0): BridgeEntry[] {
  const header = Buffer.alloc(LINK_HEADER);
  header[0] = AF_BRIDGE;
  header.writeInt32LE(index, INDEX);
  // older kernels send those of all
  return dumpRtnetlink(RTM_GETNEIGH, header).flatMap((body) => {
    const entry = parseBridgeEntry(body);
    return entry && (index === 0 || entry.index === index) ? [entry] : [];
  });
}

/** Null: it is too short, or has no Ethernet address. */
export function parseBridgeEntry(body: Buffer): BridgeEntry | null {
  if (body.length < HEADER) return null;
  const all = new AttributeReader(body, HEADER);
  const mac = parseMac(colonHex(all.bytes(NDA_LLADDR)));
  if (mac === null) return null;
  return {
    index: body.readInt32LE(INDEX),
    mac,
    permanent: (body.readUInt16LE(STATE) & NUD_PERMANENT) !== 0,
    flags: body.readUInt8(FLAGS),
    ofMaster: all.has(NDA_MASTER),
  };
}

/** A permanent one. `flags`: NTF_*. Throws the kernel's errors. */
export function addBridgeEntry(index: number, mac: number, flags: number): void {
  changeRtnetlink(RTM_NEWNEIGH, CREATE, entryMessage(index, mac, flags));
}

/** `flags`: NTF_*. Throws the kernel's errors. */
export function deleteBridgeEntry(index: number, mac: number, flags: number): void {
  changeRtnetlink(RTM_DELNEIGH, 0, entryMessage(index, mac, flags));
}

function entryMessage(index: number, mac: number, flags: number): Buffer {
  const header = Buffer.alloc(HEADER);
  header[0] = AF_BRIDGE;
  header.writeInt32LE(index, INDEX);
  header.writeUInt16LE(NUD_PERMANENT, STATE);
  header[FLAGS] = flags;
  const address = Buffer.alloc(6);
  address.writeUIntBE(mac, 0, 6);
  return Buffer.concat([header, attribute(NDA_LLADDR, address)]);
}
