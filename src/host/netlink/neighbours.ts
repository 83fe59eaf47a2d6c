/** The kernel's ARP table, read and changed without running a program. */
import { closeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { AnkaError } from '../../lib/errors.ts';
import { parseIpv4, parseMac } from '../../wire/address.ts';
import { interfaceIndex } from '../ethernet.ts';
import { openNetlink } from '../ffi/netlink.ts';
import { ACK, AF_INET, attribute, query, request, u32 } from './netlink.ts';

const NETLINK_ROUTE = 0;
const RTM_DELNEIGH = 29;
const NDA_DST = 1;
/** No such entry, which is the usual case; or the interface was removed just now. */
const NOTHING_TO_DELETE = [2, 19]; // ENOENT, ENODEV

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

export async function readNeighbours(): Promise<Neighbour[]> {
  return parseArpTable(await readFile('/proc/net/arp', 'utf8').catch(() => ''));
}

/** Deletes the entry of an address on an interface, so that the kernel resolves it again. */
export function deleteNeighbour(ip: number, dev: string): void {
  const index = interfaceIndex(dev);
  if (index === null) return;
  const header = Buffer.alloc(12); // struct ndmsg
  header[0] = AF_INET;
  header.writeInt32LE(index, 4);
  const fd = openNetlink(NETLINK_ROUTE);
  try {
    query(fd, request(RTM_DELNEIGH, ACK, Buffer.concat([header, attribute(NDA_DST, u32(ip, true))])));
  } catch (cause) {
    if (!NOTHING_TO_DELETE.includes(((cause as AnkaError).cause as { errno: number } | undefined)?.errno ?? 0)) throw cause;
  } finally {
    closeSync(fd);
  }
}
