/** Asks the kernel how it routes an IPv4 packet (RTM_GETROUTE, rtnetlink(7)), by all its rules and tables. */
import { closeSync } from 'node:fs';
import type { AnkaError } from '../../lib/errors.ts';
import { demandInterface } from '../ethernet.ts';
import { openNetlink } from '../ffi/netlink.ts';
import { ACK, AF_INET, attribute, attributes, query, request, u32 } from './netlink.ts';

const NETLINK_ROUTE = 0;
const RTM_GETROUTE = 26;
/** The answer names the table in which the route was found. */
const RTM_F_LOOKUP_TABLE = 0x1000;
const RTA = { destination: 1, source: 2, inputInterface: 3, outputInterface: 4, preferredSource: 7, table: 15, uid: 25, protocol: 27, port: 29 } as const;
const PROTOCOLS: Record<string, number> = { icmp: 1, tcp: 6, udp: 17 };

/** A packet; addresses in host order. */
export interface RoutedPacket {
  to: number;
  /** Absent: the kernel chooses. */
  from?: number;
  /** The interface by which it entered the host; absent: the host sends it. */
  iif?: string;
  /** User id of the program that sends it. */
  uid?: number;
  /** icmp, tcp or udp, for rules that ask for it. */
  protocol?: string;
  /** Destination port. */
  port?: number;
}

/** The kernel's answer. */
export type KernelRoute =
  /** `interface`: index of the one that it leaves by. `table`: id; 0 when unknown. */
  | { interface: number; source: number | null; table: number }
  /** Why it goes nowhere: errno. */
  | { errno: number };

/** Throws where netlink is not available, or an interface does not exist. */
export function lookUpRoute(packet: RoutedPacket): KernelRoute {
  const { to, from, iif, uid, protocol, port } = packet;
  const head = Buffer.alloc(12); // struct rtmsg
  head[0] = AF_INET;
  head[1] = 32;
  head[2] = from === undefined ? 0 : 32;
  head.writeUInt32LE(RTM_F_LOOKUP_TABLE, 8);
  const parts = [head, attribute(RTA.destination, u32(to, true))];
  if (from !== undefined) parts.push(attribute(RTA.source, u32(from, true)));
  if (iif !== undefined) parts.push(attribute(RTA.inputInterface, u32(demandInterface(iif))));
  else if (uid !== undefined) parts.push(attribute(RTA.uid, u32(uid)));
  const number = PROTOCOLS[protocol ?? ''];
  if (number !== undefined) parts.push(attribute(RTA.protocol, Buffer.of(number)));
  if (number !== undefined && number !== PROTOCOLS['icmp'] && port !== undefined) parts.push(attribute(RTA.port, Buffer.of(port >> 8, port)));
  const fd = openNetlink(NETLINK_ROUTE);
  try {
    const [body] = query(fd, request(RTM_GETROUTE, ACK, Buffer.concat(parts)));
    const found = attributes((body ?? Buffer.alloc(0)).subarray(8));
    const read = (type: number): number | null => {
      const payload = found.get(type)?.payload;
      return payload?.length === 4 ? payload.readUInt32LE(0) : null;
    };
    return {
      interface: read(RTA.outputInterface) ?? 0,
      source: found.get(RTA.preferredSource)?.payload.readUInt32BE(0) ?? null,
      table: read(RTA.table) ?? 0,
    };
  } catch (cause) {
    const errno = ((cause as AnkaError).cause as { errno?: number } | undefined)?.errno;
    if (errno === undefined) throw cause;
    return { errno };
  } finally {
    closeSync(fd);
  }
}
