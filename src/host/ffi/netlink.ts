/** Opens netlink sockets. */
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno } from './koffi.ts';

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 0x80003;

interface NetlinkCalls {
  socket(domain: number, type: number, protocol: number): number;
}

const calls = declareOnce(({ func }): NetlinkCalls => ({ socket: func('int socket(int, int, int)') }));

/** A netlink socket of one protocol in blocking mode, read and written as a file. The caller closes the descriptor. */
export function openNetlink(protocol: number): number {
  const fd = calls().socket(AF_NETLINK, SOCK_RAW_CLOEXEC, protocol);
  if (fd < 0) throw new AnkaError('noRights', `a netlink socket cannot be opened (errno ${errno()})`);
  return fd;
}
