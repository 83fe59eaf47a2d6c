/**
 * The few calls into libc that Node lacks. Sole importer of koffi, which is loaded at the first call, so that start-up
 * stays fast. Never used per packet. Limits: Linux on little-endian 64-bit machines. On macOS only the lock and the
 * peer's user are thought of, untested.
 */
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { AnkaError } from '../lib/errors.ts';

const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SCM_RIGHTS = 1;
const MSG_NOSIGNAL = 0x4000;
const AF_NETLINK = 16;
const IFNAMSIZ = 16;
const LOCK_EX = 2;
const LOCK_NB = 4;
const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 0x80003;
const ETH_P_ALL = 3;
const SO_ATTACH_FILTER = 26;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_KEEPALIVE = 9;
const SO_BUF_LOCK = 72;
/** Of SO_BUF_LOCK: the receive buffer stays as large as it is. */
const RECEIVE_LOCK = 2;
const IPPROTO_TCP = 6;
const TCP_NOTSENT_LOWAT = 25;
const SO_SNDBUFFORCE = 32;
const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC_NONBLOCK = 0x80802;
const MSG_ERRQUEUE_DONTWAIT = 0x2040;
const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_KEEPCAPS = 8;
const SECCOMP_SET_MODE_FILTER = 1;
/** The filter is for every thread; and speculation stays as it was, which Linux before 5.16 would slow down. */
const SECCOMP_TSYNC_SPEC_ALLOW = 5;
/** seccomp(2) by machine, as Node names them. */
const SYS_SECCOMP: Record<string, number> = { x64: 317, arm64: 277 };
/** landlock_create_ruleset(2), landlock_add_rule(2) and landlock_restrict_self(2): the same on every machine. */
const SYS_LANDLOCK = { create: 444, add: 445, restrict: 446 } as const;
const LANDLOCK_CREATE_RULESET_VERSION = 1;
const LANDLOCK_RULE_PATH_BENEATH = 1;
const F_SETFD = 2;
const CAPABILITY_VERSION_3 = 0x20080522;
/** Capabilities, by number: to listen on ports below 1024, and to change the host's networking. */
export const CAPABILITY = { bindService: 10, netAdmin: 12 } as const;
const SOL_PACKET = 263;
const PACKET_ADD_MEMBERSHIP = 1;
const PACKET_RX_RING = 5;
const PACKET_STATISTICS = 6;
const PACKET_VERSION = 10;
const TPACKET_V3 = 2;
const PACKET_MR_PROMISC = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
/** bpf(2) by machine, as Node names them. */
const SYS_BPF: Record<string, number> = { x64: 321, arm64: 280 };
const BPF_PROG_LOAD = 5;
const BPF_OBJ_GET_INFO_BY_FD = 15;
const BPF_PROG_QUERY = 16;
const BPF_PROG_TYPE_SCHED_CLS = 3;
const BPF_ATTR_SIZE = 120;
/** The whole of what BPF_PROG_QUERY has: the kernel writes at its end, whatever size is told. */
const BPF_QUERY_SIZE = 64;
/** A try takes some 50 µs. */
const BPF_TRIES = 100;
/** r0 = 0; exit */
const BPF_NOTHING = Buffer.from('b7000000000000009500000000000000', 'hex');

/** struct sock_fprog */
interface ClassicProgram {
  len: number;
  filter: Uint8Array;
}

interface Libc {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, length: Uint32Array): number;
  flock(fd: number, operation: number): number;
  setsockopt(fd: number, level: number, name: number, value: Uint8Array, length: number): number;
  attachFilter(fd: number, level: number, name: number, value: ClassicProgram, length: number): number;
  sendmsg(fd: number, message: object, flags: number): number;
  recvmsg(fd: number, message: object, flags: number): number;
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  mmap(address: null, length: number, protection: number, flags: number, fd: number, offset: number): unknown;
  munmap(address: unknown, length: number): number;
  view(address: unknown, length: number): ArrayBuffer;
  address(value: unknown): bigint;
  bpf(number: number, command: number, attributes: object, size: number): number;
  bpfWords(number: number, command: number, attributes: Uint32Array, size: number): number;
  bpfQuery(number: number, command: number, attributes: object, size: number): number;
  bpfInfo(number: number, command: number, attributes: object, size: number): number;
  prctl(option: number, a: number, b: number, c: number, d: number): number;
  seccomp(number: number, operation: number, flags: number, program: ClassicProgram): number;
  setrlimit(resource: number, limits: BigUint64Array): number;
  landlockCreate(number: number, attributes: Uint8Array | null, size: number, flags: number): number;
  landlockAdd(number: number, ruleset: number, type: number, attributes: Uint8Array, flags: number): number;
  landlockRestrict(number: number, ruleset: number, flags: number): number;
  fcntl(fd: number, command: number, argument: number): number;
  execve(path: string, argv: (string | null)[], environment: (string | null)[]): number;
  capset(header: Uint8Array, data: Uint8Array): number;
  /** macOS only. */
  getpeereid(fd: number, user: Uint32Array, group: Uint32Array): number;
  errno(): number;
}

let libc: Libc | null = null;

function load(): Libc {
  if (libc) return libc;
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const linux = process.platform === 'linux';
  const c = koffi.load(linux ? 'libc.so.6' : 'libSystem.B.dylib');
  const linuxOnly = (declaration: string) => (linux ? c.func(declaration) : () => -1);
  koffi.struct('sock_fprog', { len: 'uint16_t', filter: 'uint8_t *' });
  koffi.struct('anka_iovec', { base: 'uint8_t *', length: 'size_t' });
  koffi.struct('anka_msghdr', {
    name: 'uint8_t *',
    nameLength: 'uint32_t',
    parts: 'anka_iovec *',
    partCount: 'size_t',
    control: 'uint8_t *',
    controlLength: 'size_t',
    flags: 'int',
  });
  koffi.struct('anka_bpf_load', {
    type: 'uint32_t',
    count: 'uint32_t',
    instructions: 'uint8_t *',
    license: 'const char *',
    rest: koffi.array('uint8_t', BPF_ATTR_SIZE - 24),
  });
  koffi.struct('anka_bpf_query', {
    index: 'uint32_t',
    type: 'uint32_t',
    queryFlags: 'uint32_t',
    attachFlags: 'uint32_t',
    ids: 'uint32_t *',
    count: 'uint32_t',
    rest: koffi.array('uint8_t', BPF_QUERY_SIZE - 28),
  });
  koffi.struct('anka_bpf_info', { fd: 'uint32_t', size: 'uint32_t', info: 'uint8_t *' });
  libc = {
    ioctl: c.func('int ioctl(int, unsigned long, void *)'),
    getsockopt: c.func('int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)'),
    flock: c.func('int flock(int, int)'),
    setsockopt: c.func('int setsockopt(int, int, int, uint8_t *, uint32_t)'),
    attachFilter: c.func('int setsockopt(int, int, int, sock_fprog *, uint32_t)'),
    sendmsg: c.func('long sendmsg(int, anka_msghdr *, int)'),
    recvmsg: c.func('long recvmsg(int, anka_msghdr *, int)'),
    socket: c.func('int socket(int, int, int)'),
    bind: c.func('int bind(int, uint8_t *, uint32_t)'),
    mmap: c.func('void *mmap(void *, size_t, int, int, int, long)'),
    munmap: c.func('int munmap(void *, size_t)'),
    view: (address, length) => koffi.view(address, length),
    address: (value) => koffi.address(value),
    bpf: c.func('long syscall(long, int, anka_bpf_load *, uint32_t)'),
    bpfWords: c.func('long syscall(long, int, uint32_t *, uint32_t)'),
    bpfQuery: c.func('long syscall(long, int, anka_bpf_query *, uint32_t)'),
    bpfInfo: c.func('long syscall(long, int, anka_bpf_info *, uint32_t)'),
    prctl: linuxOnly('int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)'),
    seccomp: c.func('long syscall(long, unsigned int, unsigned int, sock_fprog *)'),
    landlockCreate: c.func('long syscall(long, uint8_t *, size_t, uint32_t)'),
    landlockAdd: c.func('long syscall(long, int, int, uint8_t *, uint32_t)'),
    landlockRestrict: c.func('long syscall(long, int, uint32_t)'),
    fcntl: c.func('int fcntl(int, int, int)'),
    execve: c.func('int execve(const char *, const char **, const char **)'),
    setrlimit: linuxOnly('int setrlimit(int, uint64_t *)'),
    capset: linuxOnly('int capset(uint8_t *, uint8_t *)'),
    getpeereid: linux ? () => -1 : c.func('int getpeereid(int, _Out_ uint32_t *, _Out_ uint32_t *)'),
    errno: () => koffi.errno(),
  };
  return libc;
}

/**
 * Opens an existing tap by name. The descriptor is the caller's to close; it carries frames with a virtio-net header
 * when `vnetHdr`. Throws `noRights` or `network`.
 */
export function openTap(name: string, vnetHdr: boolean): number {
  let fd: number;
  try {
    fd = openSync('/dev/net/tun', 'r+');
  } catch (cause) {
    throw new AnkaError('noRights', `/dev/net/tun cannot be opened (${(cause as NodeJS.ErrnoException).code}); run as root, or use the user engine`, { cause });
  }
  const request = Buffer.alloc(40);
  request.write(name.slice(0, IFNAMSIZ - 1), 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | (vnetHdr ? IFF_VNET_HDR : 0), IFNAMSIZ);
  if (load().ioctl(fd, TUNSETIFF, request) < 0) {
    const errno = load().errno();
    closeSync(fd);
    throw new AnkaError('network', `opening the tap ${name} failed (errno ${errno})${errno === 16 ? ': another process has it open' : ''}`);
  }
  return fd;
}

/**
 * Sends bytes over a connected unix socket together with an open descriptor (SCM_RIGHTS), of which the other side gets
 * a copy. Throws when not all went out.
 */
export function sendDescriptor(socketFd: number, bytes: Uint8Array, fd: number): void {
  const control = Buffer.alloc(24);
  control.writeBigUInt64LE(20n, 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  control.writeInt32LE(fd, 16);
  const message = {
    name: null,
    nameLength: 0,
    parts: { base: bytes, length: bytes.length },
    partCount: 1,
    control,
    controlLength: control.length,
    flags: 0,
  };
  const sent = load().sendmsg(socketFd, message, MSG_NOSIGNAL);
  if (sent !== bytes.length)
    throw new AnkaError('internal', `handing over a descriptor failed (${sent < 0 ? `errno ${load().errno()}` : `${sent} bytes sent`})`);
}

/**
 * A netlink socket of one protocol, in blocking mode: written and read as a file. The descriptor is the caller's to
 * close.
 */
export function openNetlink(protocol: number): number {
  const fd = load().socket(AF_NETLINK, SOCK_RAW_CLOEXEC, protocol);
  if (fd < 0) throw new AnkaError('noRights', `a netlink socket cannot be opened (errno ${load().errno()})`);
  return fd;
}

/** User id of the process on the other side of a connected unix socket. */
export function peerUser(fd: number): number {
  const c = load();
  if (process.platform !== 'linux') {
    const [user, group] = [Uint32Array.of(0), Uint32Array.of(0)];
    if (c.getpeereid(fd, user, group) < 0) throw new AnkaError('internal', `getpeereid failed (errno ${c.errno()})`);
    return user[0] as number;
  }
  const value = Buffer.alloc(12);
  if (c.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, Uint32Array.of(value.length)) < 0)
    throw new AnkaError('internal', `SO_PEERCRED failed (errno ${c.errno()})`);
  return value.readUInt32LE(4);
}

/**
 * Takes the exclusive lock of an open file (flock(2)), which the kernel lets go of when the descriptor is closed or its
 * process ends. False when another has it.
 */
export function tryLock(fd: number): boolean {
  return load().flock(fd, LOCK_EX | LOCK_NB) === 0;
}

/** One instruction of classic BPF, as `tcpdump -ddd` prints it. */
export interface BpfInstruction {
  code: number;
  jumpTrue: number;
  jumpFalse: number;
  k: number;
}

function classicProgram(instructions: readonly BpfInstruction[]): ClassicProgram {
  const filter = Buffer.alloc(instructions.length * 8);
  for (const [i, f] of instructions.entries()) {
    filter.writeUInt16LE(f.code, i * 8);
    filter[i * 8 + 2] = f.jumpTrue;
    filter[i * 8 + 3] = f.jumpFalse;
    filter.writeUInt32LE(f.k, i * 8 + 4);
  }
  return { len: instructions.length, filter };
}

/** A packet socket whose frames the kernel puts into memory that is shared with us (TPACKET_V3, packet(7)). */
export interface PacketMemory {
  /** All blocks, one behind the other. Must not be touched after `close`. */
  readonly memory: ArrayBuffer;
  /** Frames that came and frames dropped for want of room, since the last call. */
  counts(): { received: number; dropped: number };
  close(): void;
}

export interface PacketMemoryOptions {
  interfaceIndex: number;
  /** Frames of others, too; ends with the socket. */
  promiscuous: boolean;
  filter: readonly BpfInstruction[];
  /** Bytes of a block, a multiple of the page size; and how many there are. */
  blockSize: number;
  blocks: number;
  /** Milliseconds after which a block that is not full is handed over. */
  handOver: number;
}

/** Opens it. The filter is in force before the first frame. Throws `noRights` or `network`. */
export function openPacketMemory(o: PacketMemoryOptions): PacketMemory {
  const c = load();
  const fd = c.socket(AF_PACKET, SOCK_RAW_CLOEXEC, 0);
  if (fd < 0) throw new AnkaError('noRights', `a packet socket cannot be opened (errno ${c.errno()}); it needs CAP_NET_RAW`);
  const demand = (what: string, result: number): void => {
    if (result >= 0) return;
    const errno = c.errno();
    closeSync(fd);
    throw new AnkaError('network', `${what} of a packet socket failed (errno ${errno})`);
  };
  if (o.filter.length > 0) {
    demand('the filter', c.attachFilter(fd, SOL_SOCKET, SO_ATTACH_FILTER, classicProgram(o.filter), 16));
  }
  const int = (value: number): Buffer => {
    const b = Buffer.alloc(4);
    b.writeInt32LE(value);
    return b;
  };
  demand('the version', c.setsockopt(fd, SOL_PACKET, PACKET_VERSION, int(TPACKET_V3), 4));
  const size = o.blockSize * o.blocks;
  const request = Buffer.alloc(28);
  for (const [i, v] of [o.blockSize, o.blocks, 2048, size / 2048, o.handOver].entries()) request.writeUInt32LE(v, i * 4);
  demand('the ring', c.setsockopt(fd, SOL_PACKET, PACKET_RX_RING, request, request.length));
  if (o.promiscuous) {
    const member = Buffer.alloc(16);
    member.writeInt32LE(o.interfaceIndex, 0);
    member.writeUInt16LE(PACKET_MR_PROMISC, 4);
    demand('the promiscuous mode', c.setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, member, member.length));
  }
  const at = c.mmap(null, size, PROT_READ_WRITE, MAP_SHARED, fd, 0);
  demand('the memory', at === null || c.address(at) === 0xffffffffffffffffn ? -1 : 0);
  const memory = c.view(at, size);
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(ETH_P_ALL, 2);
  address.writeInt32LE(o.interfaceIndex, 4);
  demand('the interface', c.bind(fd, address, address.length));
  const counts = Buffer.alloc(12);
  return {
    memory,
    counts() {
      if (c.getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, counts, Uint32Array.of(counts.length)) < 0) return { received: 0, dropped: 0 };
      return { received: counts.readUInt32LE(0), dropped: counts.readUInt32LE(4) };
    },
    close() {
      closeSync(fd);
      c.munmap(at, size);
    },
  };
}

/**
 * Has the kernel find out when a socket's peer is gone, at the times that the host is set to (on Linux
 * `net.ipv4.tcp_keepalive_…`).
 */
export function keepAlive(fd: number): void {
  if (fd < 0) return;
  if (process.platform === 'linux') setIntOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  else setIntOption(fd, 0xffff, 8, 1);
}

/**
 * Has the kernel keep no more than `bytes` of a TCP socket's that it has not sent yet; what is on its way is not
 * counted. Linux only.
 */
export function limitUnsent(fd: number, bytes: number): void {
  if (process.platform === 'linux' && fd >= 0) setIntOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes);
}

/** What `getsockopt` writes an `int` to, and the length of that: receive buffers are looked at often. */
const optionValue = Buffer.alloc(4);
const optionLength = Uint32Array.of(4);

/**
 * How large a socket's receive buffer is just now, as the kernel counts it; 0 where that cannot be told. Linux only.
 */
export function receiveBuffer(fd: number): number {
  if (process.platform !== 'linux' || fd < 0) return 0;
  optionLength[0] = optionValue.length;
  return load().getsockopt(fd, SOL_SOCKET, SO_RCVBUF, optionValue, optionLength) === 0 ? optionValue.readInt32LE(0) : 0;
}

/**
 * Gives a TCP socket a receive buffer of `bytes`, as the kernel counts them, or as much as it allows an ordinary user;
 * it does not tune it any more. Linux only.
 */
export function enlargeReceiveBuffer(fd: number, bytes: number): void {
  // the kernel doubles what it is asked for
  if (process.platform === 'linux' && fd >= 0) setIntOption(fd, SOL_SOCKET, SO_RCVBUF, bytes / 2);
}

/** Has a TCP socket's receive buffer stay as large as it is, or lets the kernel tune it again. Linux 5.14 and later. */
export function holdReceiveBuffer(fd: number, on: boolean): void {
  if (process.platform === 'linux' && fd >= 0) setIntOption(fd, SOL_SOCKET, SO_BUF_LOCK, on ? RECEIVE_LOCK : 0);
}

/**
 * Gives a stream a send buffer of `bytes`, or as much as the kernel allows an ordinary user; it counts more for small
 * writes, and doubles what it is given. Linux only.
 */
export function setSendBuffer(fd: number, bytes: number): void {
  if (process.platform !== 'linux' || fd < 0) return;
  if (!setIntOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes)) setIntOption(fd, SOL_SOCKET, SO_SNDBUF, bytes);
}

/** A datagram socket for IPv4, which does not block, or errno. The caller closes it. */
export function openDatagram(protocol: number): { fd: number } | { errno: number } {
  const fd = load().socket(AF_INET, SOCK_DGRAM_CLOEXEC_NONBLOCK, protocol);
  return fd >= 0 ? { fd } : { errno: load().errno() };
}

/** Sets an option whose value is an `int`; false when the kernel refuses. */
export function setIntOption(fd: number, level: number, name: number, value: number): boolean {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return load().setsockopt(fd, level, name, bytes, bytes.length) === 0;
}

/**
 * Takes the next message of a socket's error queue (ip(7), IP_RECVERR): bytes of the payload, or -1 when there is none.
 * What is not written to stays as it was.
 */
export function receiveError(fd: number, name: Buffer, payload: Buffer, control: Buffer): number {
  const message = {
    name,
    nameLength: name.length,
    parts: { base: payload, length: payload.length },
    partCount: 1,
    control,
    controlLength: control.length,
    flags: 0,
  };
  return load().recvmsg(fd, message, MSG_ERRQUEUE_DONTWAIT);
}

/**
 * Root becomes an ordinary user for good, and keeps these rights (capabilities(7)) of this thread's. Throws `internal`
 * when the kernel refuses, as in a container that does not have that user.
 */
export function becomeUser(uid: number, gid: number, capabilities: readonly number[]): void {
  const c = load();
  try {
    c.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    process.setgroups?.([]);
    process.setgid?.(gid);
    process.setuid?.(uid);
  } catch (cause) {
    throw new AnkaError('internal', `root cannot become user ${uid}: ${(cause as Error).message}`, { cause });
  }
  const header = Buffer.alloc(8);
  header.writeUInt32LE(CAPABILITY_VERSION_3);
  const sets = Buffer.alloc(24); // effective, permitted, inheritable; low words, then high ones
  const kept = capabilities.reduce((bits, c) => bits | (1 << c), 0);
  for (const at of [0, 4]) sets.writeUInt32LE(kept, at);
  if (c.capset(header, sets) < 0) throw new AnkaError('internal', `capset failed (errno ${c.errno()})`);
}

/**
 * No program that this process may ever run gains rights by it (no_new_privs, prctl(2)). Does nothing where there is no
 * Linux.
 */
export function dropPrivilegeGain(): void {
  if (process.platform === 'linux') load().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/** Version of the kernel's Landlock; 0 where it has none, or it is switched off. */
export function landlockAbi(): number {
  if (process.platform !== 'linux') return 0;
  return Math.max(0, load().landlockCreate(SYS_LANDLOCK.create, null, 0, LANDLOCK_CREATE_RULESET_VERSION));
}

/**
 * A set of rules, which takes all these rights of file systems from whoever it is put on; its descriptor is the
 * caller's to close. -1 when the kernel refuses.
 */
export function createLandlockRuleset(abi: number, handled: number, scopes: number): number {
  const attributes = Buffer.alloc(24);
  for (const [i, v] of [handled, 0, scopes].entries()) attributes.writeBigUInt64LE(BigInt(v), i * 8);
  return load().landlockCreate(SYS_LANDLOCK.create, attributes, abi < 4 ? 8 : abi < 6 ? 16 : 24, 0);
}

/** Leaves rights for what a descriptor stands for, and all below it; false when the kernel refuses. */
export function addLandlockRule(ruleset: number, fd: number, rights: number): boolean {
  const attributes = Buffer.alloc(12);
  attributes.writeBigUInt64LE(BigInt(rights), 0);
  attributes.writeInt32LE(fd, 8);
  return load().landlockAdd(SYS_LANDLOCK.add, ruleset, LANDLOCK_RULE_PATH_BENEATH, attributes, 0) === 0;
}

/** Puts the rules on this thread and what comes from it, for good; false when the kernel refuses. */
export function restrictByLandlock(ruleset: number): boolean {
  return load().landlockRestrict(SYS_LANDLOCK.restrict, ruleset, 0) === 0;
}

/**
 * This process becomes another program (execve(2)), with the descriptors 0–2, which Node had closed for it; returns
 * only when it cannot. Nothing of ours is tidied up before.
 */
export function becomeProgram(path: string, argv: readonly string[], environment: NodeJS.ProcessEnv): void {
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  for (const fd of [0, 1, 2]) load().fcntl(fd, F_SETFD, 0);
  load().execve(path, [...argv, null], [...variables, null]);
}

/**
 * Sets both limits of a resource (setrlimit(2)) for this process; false when the kernel refuses, or there is no Linux.
 */
export function setLimit(resource: number, value: number): boolean {
  return load().setrlimit(resource, BigUint64Array.of(BigInt(value), BigInt(value))) === 0;
}

/**
 * Every system call of every thread passes this filter from now on (seccomp(2)); false when the kernel refuses. It
 * needs `dropPrivilegeGain` before.
 */
export function filterSystemCalls(program: readonly BpfInstruction[]): boolean {
  const number = process.platform === 'linux' ? SYS_SECCOMP[process.arch] : undefined;
  return number !== undefined && load().seccomp(number, SECCOMP_SET_MODE_FILTER, SECCOMP_TSYNC_SPEC_ALLOW, classicProgram(program)) === 0;
}

/**
 * Why this kernel takes no eBPF program for tc from us, found out by loading one that does nothing; null when it does.
 * The kernel gives up a load with EAGAIN when a signal is pending, and ours come at any time (a child has ended or was
 * stopped): that is no refusal, and the load is tried again.
 */
export function ebpfRefusal(): string | null {
  if (process.platform !== 'linux' || SYS_BPF[process.arch] === undefined) return `eBPF is not used on ${process.platform} ${process.arch}`;
  const program = {
    type: BPF_PROG_TYPE_SCHED_CLS,
    count: BPF_NOTHING.length / 8,
    instructions: BPF_NOTHING,
    license: 'Apache-2.0',
    rest: new Uint8Array(BPF_ATTR_SIZE - 24),
  };
  let fd = -constants.errno.EAGAIN;
  for (let tries = 0; fd === -constants.errno.EAGAIN && tries < BPF_TRIES; tries++)
    fd = bpfResult((c, number) => c.bpf(number, BPF_PROG_LOAD, program, BPF_ATTR_SIZE));
  if (fd < 0) return `this kernel takes no eBPF from us (${getSystemErrorName(fd)})`;
  closeSync(fd);
  return null;
}

/** What bpf(2) gives, or errno below zero. */
function bpfResult(call: (c: Libc, number: number) => number): number {
  const number = SYS_BPF[process.arch];
  if (process.platform !== 'linux' || number === undefined) return -constants.errno.ENOSYS;
  const result = call(load(), number);
  return result < 0 ? -load().errno() : result;
}

/**
 * bpf(2) with an attribute of numbers only, in words of 32 bits: what it gives (a descriptor is the caller's to close),
 * or errno below zero.
 */
export function callBpf(command: number, ...words: readonly number[]): number {
  const attributes = Uint32Array.from(words);
  return bpfResult((c, number) => c.bpfWords(number, command, attributes, attributes.byteLength));
}

/**
 * Writes the ids of the programs at a hook of an interface to `ids`, in their order; what is left over stays as it was.
 * Gives 0, or errno below zero.
 */
export function queryBpf(interfaceIndex: number, attachType: number, ids: Uint32Array): number {
  const rest = new Uint8Array(BPF_QUERY_SIZE - 28);
  const attributes = { index: interfaceIndex, type: attachType, queryFlags: 0, attachFlags: 0, ids, count: ids.length, rest };
  return bpfResult((c, number) => c.bpfQuery(number, BPF_PROG_QUERY, attributes, BPF_QUERY_SIZE));
}

/**
 * Writes the beginning of what the kernel tells of a program (struct bpf_prog_info) to `info`. Gives 0, or errno below
 * zero.
 */
export function describeBpf(fd: number, info: Uint8Array): number {
  return bpfResult((c, number) => c.bpfInfo(number, BPF_OBJ_GET_INFO_BY_FD, { fd, size: info.length, info }, 16));
}
