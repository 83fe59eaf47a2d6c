/** Packet sockets with a ring of received frames in memory shared with the kernel (TPACKET_V3, packet(7)). */
import { closeSync } from 'node:fs';
import { AnkaError } from '../../lib/errors.ts';
import { type BpfInstruction, type ClassicProgram, classicProgram, declareClassicProgram } from './classic-bpf.ts';
import { declareOnce, errno } from './koffi.ts';

const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 0x80003;
const ETH_P_ALL = 3;
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const SOL_PACKET = 263;
const PACKET_ADD_MEMBERSHIP = 1;
const PACKET_RX_RING = 5;
const PACKET_STATISTICS = 6;
const PACKET_VERSION = 10;
const TPACKET_V3 = 2;
const PACKET_MR_PROMISC = 1;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_FAILED = 0xffffffffffffffffn;
/** Bytes. TPACKET_V3 needs a valid frame size, but does not use it. */
const FRAME_SIZE = 2048;

interface PacketCalls {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, length: Uint32Array): number;
  setsockopt(fd: number, level: number, name: number, value: Uint8Array, length: number): number;
  attachFilter(fd: number, level: number, name: number, value: ClassicProgram, length: number): number;
  mmap(address: null, length: number, protection: number, flags: number, fd: number, offset: number): unknown;
  munmap(address: unknown, length: number): number;
  view(address: unknown, length: number): ArrayBuffer;
  address(value: unknown): bigint;
}

const calls = declareOnce(({ koffi, func }): PacketCalls => {
  declareClassicProgram();
  return {
    socket: func('int socket(int, int, int)'),
    bind: func('int bind(int, uint8_t *, uint32_t)'),
    getsockopt: func('int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)'),
    setsockopt: func('int setsockopt(int, int, int, uint8_t *, uint32_t)'),
    attachFilter: func('int setsockopt(int, int, int, sock_fprog *, uint32_t)'),
    mmap: func('void *mmap(void *, size_t, int, int, int, long)'),
    munmap: func('int munmap(void *, size_t)'),
    view: (address, length) => koffi.view(address, length),
    address: (value) => koffi.address(value),
  };
});

export interface PacketMemory {
  /** All blocks, one after another. Must not be touched after `close`. */
  readonly memory: ArrayBuffer;
  /** Frames received, and frames dropped because the ring was full, since the last call. */
  counts(): { received: number; dropped: number };
  close(): void;
}

export interface PacketMemoryOptions {
  interfaceIndex: number;
  /** Also receive frames to other stations; lasts until the socket is closed. */
  promiscuous: boolean;
  filter: readonly BpfInstruction[];
  /** Bytes of a block, a multiple of the page size. */
  blockSize: number;
  blocks: number;
  /** Milliseconds after which the kernel hands over a block that is not full. */
  blockTimeout: number;
}

/** Opens a packet socket whose filter is in force before the first frame. Throws `noRights` or `network`. */
export function openPacketMemory(options: PacketMemoryOptions): PacketMemory {
  const c = calls();
  const fd = c.socket(AF_PACKET, SOCK_RAW_CLOEXEC, 0);
  if (fd < 0) throw new AnkaError('noRights', `a packet socket cannot be opened (errno ${errno()}); it needs CAP_NET_RAW`);
  const demand = (what: string, result: number): void => {
    if (result >= 0) return;
    const error = errno();
    closeSync(fd);
    throw new AnkaError('network', `${what} of a packet socket failed (errno ${error})`);
  };
  if (options.filter.length > 0) demand('the filter', c.attachFilter(fd, SOL_SOCKET, SO_ATTACH_FILTER, classicProgram(options.filter), 16));
  demand('the version', c.setsockopt(fd, SOL_PACKET, PACKET_VERSION, words(TPACKET_V3), 4));
  const size = options.blockSize * options.blocks;
  // struct tpacket_req3
  const request = words(options.blockSize, options.blocks, FRAME_SIZE, size / FRAME_SIZE, options.blockTimeout, 0, 0);
  demand('the ring', c.setsockopt(fd, SOL_PACKET, PACKET_RX_RING, request, request.length));
  if (options.promiscuous) {
    const member = membership(options.interfaceIndex);
    demand('the promiscuous mode', c.setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, member, member.length));
  }
  const at = c.mmap(null, size, PROT_READ_WRITE, MAP_SHARED, fd, 0);
  demand('the memory', at === null || c.address(at) === MAP_FAILED ? -1 : 0);
  const memory = c.view(at, size);
  const address = packetAddress(options.interfaceIndex);
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

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  for (const [i, value] of values.entries()) bytes.writeUInt32LE(value, i * 4);
  return bytes;
}

/** struct packet_mreq */
function membership(interfaceIndex: number): Buffer {
  const member = Buffer.alloc(16);
  member.writeInt32LE(interfaceIndex, 0);
  member.writeUInt16LE(PACKET_MR_PROMISC, 4);
  return member;
}

/** struct sockaddr_ll of every protocol on an interface. */
function packetAddress(interfaceIndex: number): Buffer {
  const address = Buffer.alloc(20);
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeUInt16BE(ETH_P_ALL, 2);
  address.writeInt32LE(interfaceIndex, 4);
  return address;
}
