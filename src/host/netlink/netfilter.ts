/** Netlink messages of netfilter: connections (conntrack.ts) and nftables. */
import { closeSync } from 'node:fs';
import { openNetlink } from '../ffi/netlink.ts';
import { ACK, AF_INET, attributes, query, request } from './netlink.ts';

const NETLINK_NETFILTER = 12;
const NFT_GET_GENERATION = 0x0a10;
const GENERATION_ID = 1;

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

/** A request with netfilter's header, for IPv4. */
export function message(type: number, flags: number, body: Buffer): Buffer {
  return request(type, flags, Buffer.concat([Buffer.of(AF_INET, 0, 0, 0), body]));
}
