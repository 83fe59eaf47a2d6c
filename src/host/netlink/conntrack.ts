/**
 * Deletes entries of the kernel's connection table.
 *
 * Theory of operation: the table is read over netlink, once for each filter. The kernel filters (Linux 5.8 and later;
 * older kernels send everything), and the caller decides about each entry that is read. An entry is deleted by its own
 * tuple and id, so that a newer connection with the same ports stays. One read takes at most 32 KiB; after some
 * milliseconds of reading, other events have their turn.
 *
 * Limits: IPv4. A resize of the table meanwhile may hide entries.
 */
import { closeSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Connection, type ConnectionFilter, connectionDump, find, ORIGINAL, parseEntry } from './connection-messages.ts';
import { message, openNetfilter } from './netfilter.ts';
import { ACK, answers, ENOENT, errnoOf, query } from './netlink.ts';

const CT_DELETE = 0x0102;
const ID = 12;
const ZONE = 18;
/** Reading for longer, ms, lets other events run first. */
const SLICE_MS = 5;

/** The attributes that identify an entry to the kernel, as received. */
function keyOf(body: Buffer): Buffer {
  const parts = [ORIGINAL, ZONE, ID].map((type) => {
    const at = find(body, 0, body.length, type);
    return at < 0 ? Buffer.alloc(0) : body.subarray(at, at + Math.ceil(body.readUInt16LE(at) / 4) * 4);
  });
  return Buffer.concat(parts);
}

/** False if the entry has expired meanwhile. */
function deleteEntry(fd: number, key: Buffer): boolean {
  try {
    query(fd, message(CT_DELETE, ACK, key));
    return true;
  } catch (cause) {
    if (errnoOf(cause) !== ENOENT) throw cause;
    return false;
  }
}

/**
 * Deletes the connections for which `matches` is true. Those are read that a filter lets through; all, if `filters` is
 * null. `matches` may be asked about others as well. Returns the number of deleted ones.
 */
export async function cutConnections(filters: readonly ConnectionFilter[] | null, matches: (c: Connection) => boolean): Promise<number> {
  const reader = openNetfilter();
  const writer = openNetfilter();
  let removed = 0;
  let since = performance.now();
  try {
    for (const filter of filters ?? [null]) {
      for (const bodies of answers(reader, connectionDump(filter))) {
        for (const body of bodies) {
          const connection = parseEntry(body);
          if (connection && matches(connection) && deleteEntry(writer, keyOf(body))) removed++;
        }
        if (performance.now() - since < SLICE_MS) continue;
        await nextTurn();
        since = performance.now();
      }
    }
    return removed;
  } finally {
    closeSync(reader);
    closeSync(writer);
  }
}
