/** Netlink messages of netfilter: connections (conntrack.ts) and nftables. */
import { closeSync } from 'node:fs';
import { openNetlink } from '../ffi/netlink.ts';
import { ACK, AF_INET, attribute, attributes, DUMP, EINTR, ENOENT, errnoOf, query, request } from './netlink.ts';

export const NETLINK_NETFILTER = 12;
const NFT_GET_GENERATION = 0x0a10;
const GENERATION_ID = 1;
/** NFPROTO_*. */
export const FAMILIES = { inet: 1, ip: 2, netdev: 5, bridge: 7, ip6: 10 } as const;
/** A dump that was interrupted is repeated; the last attempt's error is thrown. */
const MAX_ATTEMPTS = 5;

/** A family of nftables. */
export type Family = keyof typeof FAMILIES;

/** A socket for these messages. The caller closes it. */
export function openNetfilter(): number {
  return openNetlink(NETLINK_NETFILTER);
}

/** Generation of the nftables ruleset: incremented by every transaction of any program. */
export function rulesetGeneration(): number {
  const fd = openNetfilter();
  try {
    const [body] = query(fd, message(NFT_GET_GENERATION, ACK, Buffer.alloc(0)));
    return (
      attributes(body ?? Buffer.alloc(0))
        .get(GENERATION_ID)
        ?.payload.readUInt32BE() ?? 0
    );
  } finally {
    closeSync(fd);
  }
}

/** A request with netfilter's header. `family`: that of the table or connection, IPv4 by default. */
export function message(type: number, flags: number, body: Buffer, family = AF_INET): Buffer {
  return request(type, flags, Buffer.concat([Buffer.of(family, 0, 0, 0), body]));
}

/** An attribute that is a name. */
export const text = (type: number, value: string): Buffer => attribute(type, Buffer.from(`${value}\0`));

/** A name in a message; empty if it has none of that type. */
export const textOf = (body: Buffer, type: number): string => attributes(body).get(type)?.payload.toString('latin1').replace(/\0$/, '') ?? '';

/**
 * Bodies of a dump's messages; none if its object does not exist. Repeated when the rules are replaced meanwhile.
 * Throws the kernel's errors.
 */
export function dump(type: number, family: Family, of: Buffer): Buffer[] {
  const fd = openNetfilter();
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        return query(fd, message(type, DUMP, of, FAMILIES[family]));
      } catch (cause) {
        if (errnoOf(cause) === ENOENT) return [];
        if (errnoOf(cause) !== EINTR || attempt === MAX_ATTEMPTS) throw cause;
      }
    }
  } finally {
    closeSync(fd);
  }
}
