/**
 * The kernel's table of connections, of which those of one address are found and removed.
 *
 * Theory of operation: two dumps over netlink, filtered by the kernel (5.8 and later; older ones send everything, so
 * the answer is filtered again here): entries that the address began, and entries that it answers. Each is removed by
 * its own tuple. Reading is synchronous: a filtered dump takes well under a millisecond per thousand entries. Limits:
 * IPv4.
 */
import { closeSync } from 'node:fs';
import type { AnkaError } from '../../lib/errors.ts';
import { message, openNetfilter } from './netfilter.ts';
import { ACK, ask, attribute, attributes, DUMP, u32 } from './netlink.ts';

const CT_GET = 0x0101;
const CT_DELETE = 0x0102;
const NESTED = 0x8000;
const TUPLE_ORIG = 1;
const TUPLE_REPLY = 2;
const ZONE = 18;
const FILTER = 25;
const TUPLE_IP = 1;
const IP_SRC = 1;
const IP_DST = 2;
const FILTER_IP_SRC = 1;
const ENOENT = 2;

/** An entry, as far as it matters here: who began it towards whom, and who answers. */
export interface Connection {
  source: number;
  destination: number;
  /** The answering side: differs from `destination` where it was rewritten. */
  responder: number;
}

interface Entry extends Connection {
  /** What the kernel needs in order to find it again: attributes as they came. */
  key: Buffer;
}

/** One message of a dump, without its headers; null when it is no IPv4 entry. */
export function parseConntrackEntry(body: Buffer): Entry | null {
  const all = attributes(body);
  const side = (tuple: number, which: number): number | null => {
    const t = all.get(tuple);
    const ip = t && attributes(t.payload).get(TUPLE_IP);
    const a = ip && attributes(ip.payload).get(which)?.payload;
    return a && a.length === 4 ? a.readUInt32BE(0) : null;
  };
  const [source, destination, responder] = [side(TUPLE_ORIG, IP_SRC), side(TUPLE_ORIG, IP_DST), side(TUPLE_REPLY, IP_SRC)];
  if (source === null || destination === null || responder === null) return null;
  const key = Buffer.concat([all.get(TUPLE_ORIG)!.whole, ...(all.has(ZONE) ? [all.get(ZONE)!.whole] : [])]);
  return { source, destination, responder, key };
}

/** Removes the connections that an address (host order) began or answers and that `which` takes. Returns how many. */
export function cutConnections(ip: number, which: (c: Connection) => boolean = () => true): number {
  const fd = openNetfilter();
  try {
    let cut = 0;
    for (const [tuple, flagsOf] of [
      [TUPLE_ORIG, 1],
      [TUPLE_REPLY, 2],
    ] as const) {
      const filter = Buffer.concat([
        attribute(tuple | NESTED, attribute(TUPLE_IP | NESTED, attribute(IP_SRC, u32(ip, true)))),
        attribute(FILTER | NESTED, attribute(flagsOf, u32(FILTER_IP_SRC))),
      ]);
      for (const body of ask(fd, message(CT_GET, DUMP, filter))) {
        const entry = parseConntrackEntry(body);
        if (!entry || (tuple === TUPLE_ORIG ? entry.source : entry.responder) !== ip || !which(entry)) continue;
        try {
          ask(fd, message(CT_DELETE, ACK, entry.key));
          cut++;
        } catch (cause) {
          // it ended by itself meanwhile
          if (((cause as AnkaError).cause as { errno?: number } | undefined)?.errno !== ENOENT) throw cause;
        }
      }
    }
    return cut;
  } finally {
    closeSync(fd);
  }
}
