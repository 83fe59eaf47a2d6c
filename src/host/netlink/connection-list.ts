/**
 * Lists entries of the kernel's connection table by the address that opened them.
 *
 * Theory of operation: one dump over netlink, which the kernel filters (Linux 5.8 and later; older kernels send
 * everything, so it is filtered again here). Reading is synchronous, a few milliseconds per thousand entries.
 *
 * Limits: IPv4.
 */
import { closeSync } from 'node:fs';
import { connectionDump, find, ORIGINAL, parseTuple, type Tuple } from './connection-messages.ts';
import { openNetfilter } from './netfilter.ts';
import { attributes, query } from './netlink.ts';

const PROTOCOL_STATE = 4;
const TIMEOUT = 7;

/** States of TCP connections, by the kernel's numbers. */
export const TCP_STATES = ['none', 'syn_sent', 'syn_recv', 'established', 'fin_wait', 'close_wait', 'last_ack', 'time_wait', 'close', 'syn_sent2'] as const;

/** One entry, in its original direction. */
export interface ListedConnection extends Tuple {
  /** Seconds until it expires. */
  expires: number;
  /** TCP only. */
  state?: (typeof TCP_STATES)[number];
}

/** What `ip` has opened. */
export function connectionsFrom(ip: number): ListedConnection[] {
  const fd = openNetfilter();
  try {
    return query(fd, connectionDump({ source: ip })).flatMap((body) => {
      const c = parseListedConnection(body);
      return c?.source === ip ? [c] : [];
    });
  } finally {
    closeSync(fd);
  }
}

/** One message of a dump, without its headers; null if it is no IPv4 entry. */
export function parseListedConnection(body: Buffer): ListedConnection | null {
  const all = attributes(body);
  const tuple = parseTuple(body, find(body, 0, body.length, ORIGINAL));
  if (tuple === null) return null;
  // the one attribute inside is the protocol's, and the first one in it is the state
  const state = TCP_STATES[numberIn(nested(nested(all, PROTOCOL_STATE), 1), 1, 1) ?? -1];
  return {
    ...tuple,
    expires: numberIn(all, TIMEOUT, 4) ?? 0,
    ...(state === undefined ? {} : { state }),
  };
}

type Attributes = ReturnType<typeof attributes>;

const nested = (all: Attributes, type: number): Attributes => attributes(all.get(type)?.payload ?? Buffer.alloc(0));

/** A number of `size` bytes; null if the attribute is missing or has another size. */
function numberIn(all: Attributes, type: number, size: number): number | null {
  const payload = all.get(type)?.payload;
  return payload?.length === size ? payload.readUIntBE(0, size) : null;
}
