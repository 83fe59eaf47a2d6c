/** The kernel's ARP table, read and changed without running a program. */
import { readFileSync } from 'node:fs';
import { parseIpv4, parseMac } from '../../wire/address.ts';
import { interfaceIndex } from '../ethernet.ts';
import { AttributeReader } from './attribute-reader.ts';
import { AF_INET, attribute, errnoOf, u32 } from './netlink.ts';
import { changeRtnetlink, dumpRtnetlink } from './rtnetlink.ts';

const RTM_NEWNEIGH = 28;
const RTM_DELNEIGH = 29;
const RTM_GETNEIGH = 30;
/** NLM_F_REPLACE */
const REPLACE = 0x100;
/** struct ndmsg: offsets, and its length. */
const INDEX = 4;
const STATE = 8;
const HEADER = 12;
const NDA_DST = 1;
/** States of an entry (rtnetlink(7)). */
export const NUD = { none: 0, reachable: 0x02, probe: 0x10, failed: 0x20, noArp: 0x40, permanent: 0x80 } as const;
/** No such entry, which is the usual case (ENOENT); or the interface was removed just now (ENODEV). */
const NO_ENTRY = [2, 19];
/** The entry has no link-layer address yet. */
const EINVAL = 22;

export interface Neighbour {
  ip: number;
  mac: number;
  dev: string;
}

/** Complete entries of /proc/net/arp. */
export function parseArpTable(text: string): Neighbour[] {
  return text
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const [address, , flags, hw, , dev] = line.trim().split(/\s+/);
      const ip = parseIpv4(address ?? '');
      const mac = parseMac(hw ?? '');
      return ip === null || mac === null || mac === 0 || dev === undefined || Number(flags) === 0 ? [] : [{ ip, mac, dev }];
    });
}

/** Read at once: a file of /proc waits for nothing, and threads of libuv would be woken for each of its parts. */
export function readNeighbours(): Neighbour[] {
  try {
    return parseArpTable(readFileSync('/proc/net/arp', 'utf8'));
  } catch {
    return [];
  }
}

/** State of an address's entry on an interface (NUD_*); 0 if there is none, or no such interface. */
export function neighbourState(ip: number, dev: string): number {
  const index = interfaceIndex(dev);
  const states = index === null ? [] : dumpRtnetlink(RTM_GETNEIGH, header(0, 0)).flatMap((body) => parseNeighbourState(body, ip, index) ?? []);
  return states[0] ?? NUD.none;
}

/** Null: it is the entry of another address or interface. */
export function parseNeighbourState(body: Buffer, ip: number, index: number): number | null {
  if (body.length < HEADER || body[0] !== AF_INET || body.readInt32LE(INDEX) !== index) return null;
  return new AttributeReader(body, HEADER).ipv4(NDA_DST) === ip ? body.readUInt16LE(STATE) : null;
}

/** Makes the kernel ask again for an address that it has resolved. False if it has not. */
export function probeNeighbour(ip: number, dev: string): boolean {
  return changeNeighbour(RTM_NEWNEIGH, REPLACE, { ip, dev, state: NUD.probe }, [...NO_ENTRY, EINVAL]);
}

/** Deletes the entry of an address on an interface, so that the kernel resolves it again. */
export function deleteNeighbour(ip: number, dev: string): void {
  changeNeighbour(RTM_DELNEIGH, 0, { ip, dev, state: NUD.none }, NO_ENTRY);
}

/** False if the kernel's error is among `expected`, or there is no such interface. Throws its other errors. */
function changeNeighbour(type: number, flags: number, entry: { ip: number; dev: string; state: number }, expected: readonly number[]): boolean {
  const index = interfaceIndex(entry.dev);
  if (index === null) return false;
  try {
    changeRtnetlink(type, flags, Buffer.concat([header(index, entry.state), attribute(NDA_DST, u32(entry.ip, true))]));
    return true;
  } catch (cause) {
    if (!expected.includes(errnoOf(cause))) throw cause;
    return false;
  }
}

function header(index: number, state: number): Buffer {
  const b = Buffer.alloc(HEADER);
  b[0] = AF_INET;
  b.writeInt32LE(index, INDEX);
  b.writeUInt16LE(state, STATE);
  return b;
}
