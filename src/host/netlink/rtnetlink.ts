/**
 * Reads and changes links, addresses, routes, neighbours and traffic control by rtnetlink(7).
 *
 * Theory of operation: each call opens a socket, which takes some microseconds. Reading is synchronous. A dump during
 * which its objects changed may lack some, so it is read again.
 *
 * Limits: where they change all the time, the last attempt is taken as it is.
 */
import { closeSync } from 'node:fs';
import { openNetlink } from '../ffi/netlink.ts';
import { setIntOption } from '../ffi/sockets.ts';
import { ACK, DUMP, exchange, request } from './netlink.ts';

export const NETLINK_ROUTE = 0;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const MAX_ATTEMPTS = 10;
/** The family of a bridge's forwarding entries. */
export const AF_BRIDGE = 7;

/** `body`: the family's header, and attributes. Returns the answers with that header. Throws the kernel's errors. */
export function dumpRtnetlink(type: number, body: Buffer): Buffer[] {
  return withSocket((fd) => {
    for (let attempt = 1; ; attempt++) {
      const { bodies, interrupted } = exchange(fd, request(type, DUMP, body));
      if (!interrupted || attempt === MAX_ATTEMPTS) return bodies;
    }
  });
}

/** Adds, changes or removes an object. Throws the kernel's errors. */
export function changeRtnetlink(type: number, flags: number, body: Buffer): void {
  withSocket((fd) => {
    // errors come with a text, and without the request
    setIntOption(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1);
    setIntOption(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
    exchange(fd, request(type, ACK | flags, body));
  });
}

function withSocket<T>(use: (fd: number) => T): T {
  const fd = openNetlink(NETLINK_ROUTE);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}
