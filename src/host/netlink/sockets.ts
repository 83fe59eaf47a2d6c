/**
 * This host's own TCP and UDP sockets with a peer, by sock_diag(7).
 *
 * Theory of operation: the kernel lists them, the caller chooses, and the kernel closes what is chosen: a TCP peer gets
 * a RST, and the program that has the socket the error ECONNABORTED. Sockets of IPv6 with an IPv4 peer count, too.
 *
 * Limits: IPv4 peers. Where the kernel cannot list or close sockets (CONFIG_INET_DIAG_DESTROY), nothing happens.
 */
import { closeSync } from 'node:fs';
import { IpProtocol } from '../../wire/ipv4.ts';
import { openNetlink } from '../ffi/netlink.ts';
import { ACK, AF_INET, AF_INET6, DUMP, ENOENT, errnoOf, exchange, request } from './netlink.ts';

const NETLINK_SOCK_DIAG = 4;
const SOCK_DIAG_BY_FAMILY = 20;
const SOCK_DESTROY = 21;
const EOPNOTSUPP = 95;
/** All states of TCP but TCP_LISTEN; of UDP those with a peer, TCP_ESTABLISHED. */
const STATES = { tcp: 0xffffffff & ~(1 << 10), udp: 1 << 1 } as const;
/** struct inet_diag_req_v2: offset of the socket's id, and its length. */
const REQUEST = { states: 4, id: 8, length: 56 } as const;
/** struct inet_diag_msg: offset of the id, and its length; then offsets in the id, and its length. */
const ANSWER = { id: 4, length: 72 } as const;
const ID = { localPort: 0, remotePort: 2, remote: 20, length: 48 } as const;
/** ::ffff:0:0/96 */
const MAPPED = Buffer.from('00000000000000000000ffff', 'hex');

/** Address in host order. */
export interface HostSocket {
  protocol: 'tcp' | 'udp';
  localPort: number;
  remote: number;
  remotePort: number;
}

/** Closes the sockets for which `matches` is true. Returns how many. Throws the kernel's other errors. */
export function closeSockets(matches: (socket: HostSocket) => boolean): number {
  const fd = openNetlink(NETLINK_SOCK_DIAG);
  let closed = 0;
  try {
    for (const family of [AF_INET, AF_INET6])
      for (const protocol of ['tcp', 'udp'] as const)
        for (const body of attempt(() => exchange(fd, listRequest(family, protocol)).bodies) ?? []) {
          const socket = parseSocket(body, protocol);
          const isClosed = socket !== null && matches(socket) && attempt(() => exchange(fd, closeRequest(body, protocol)));
          if (isClosed) closed++;
        }
    return closed;
  } finally {
    closeSync(fd);
  }
}

/** Null where the kernel knows no such sockets, or cannot do it. */
function attempt<T>(work: () => T): T | null {
  try {
    return work();
  } catch (cause) {
    if (![ENOENT, EOPNOTSUPP].includes(errnoOf(cause))) throw cause;
    return null;
  }
}

function listRequest(family: number, protocol: HostSocket['protocol']): Buffer {
  const body = Buffer.alloc(REQUEST.length);
  body[0] = family;
  body[1] = IpProtocol[protocol];
  body.writeUInt32LE(STATES[protocol] >>> 0, REQUEST.states);
  return request(SOCK_DIAG_BY_FAMILY, DUMP, body);
}

function closeRequest(answer: Buffer, protocol: HostSocket['protocol']): Buffer {
  const body = Buffer.alloc(REQUEST.length);
  body[0] = answer[0] as number;
  body[1] = IpProtocol[protocol];
  body.writeUInt32LE(0xffffffff, REQUEST.states);
  answer.copy(body, REQUEST.id, ANSWER.id, ANSWER.id + ID.length);
  return request(SOCK_DESTROY, ACK, body);
}

/** Null: it has no IPv4 peer, or is too short. */
export function parseSocket(body: Buffer, protocol: HostSocket['protocol']): HostSocket | null {
  if (body.length < ANSWER.length) return null;
  const id = body.subarray(ANSWER.id);
  const remote = id.subarray(ID.remote);
  const mapped = body[0] === AF_INET6;
  if (mapped && !remote.subarray(0, MAPPED.length).equals(MAPPED)) return null;
  const ports = { localPort: id.readUInt16BE(ID.localPort), remotePort: id.readUInt16BE(ID.remotePort) };
  return { protocol, ...ports, remote: remote.readUInt32BE(mapped ? MAPPED.length : 0) };
}
