/** Opens netlink sockets. */
import { closeSync } from 'node:fs';
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno } from './koffi.ts';
import { announceBySignal } from './signal-io.ts';
import { setIntOption } from './sockets.ts';

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 0x80003;
const SOCK_NONBLOCK = 0x800;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
/** struct sockaddr_nl: offset of the groups, and its length. */
const GROUPS = 8;
const ADDRESS_LENGTH = 12;

interface NetlinkCalls {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
}

const calls = declareOnce(({ func }): NetlinkCalls => ({ socket: func('int socket(int, int, int)'), bind: func('int bind(int, uint8_t *, uint32_t)') }));

/** A netlink socket of one protocol in blocking mode, read and written as a file. The caller closes the descriptor. */
export function openNetlink(protocol: number): number {
  return open(protocol, SOCK_RAW_CLOEXEC);
}

/**
 * A non-blocking netlink socket that receives the messages of multicast groups (1–32), of which SIGIO is raised:
 * install a handler before. `bytes`: how much the kernel keeps for it. The caller closes the descriptor.
 */
export function openNetlinkGroups(protocol: number, groups: readonly number[], bytes: number): number {
  const fd = open(protocol, SOCK_RAW_CLOEXEC | SOCK_NONBLOCK);
  // without the right to exceed the limit the default stays
  setIntOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes);
  const address = Buffer.alloc(ADDRESS_LENGTH);
  address.writeUInt16LE(AF_NETLINK, 0);
  address.writeUInt32LE(groups.reduce((mask, group) => mask | (1 << (group - 1)), 0) >>> 0, GROUPS);
  if (announceBySignal(fd) && calls().bind(fd, address, ADDRESS_LENGTH) === 0) return fd;
  const error = errno();
  closeSync(fd);
  throw new AnkaError('noRights', `netlink groups cannot be subscribed to (errno ${error})`);
}

function open(protocol: number, type: number): number {
  const fd = calls().socket(AF_NETLINK, type, protocol);
  if (fd < 0) throw new AnkaError('noRights', `a netlink socket cannot be opened (errno ${errno()})`);
  return fd;
}
