/**
 * Frames of one interface, read from a packet socket's ring.
 *
 * Theory of operation: the kernel fills one block after another and hands each over when it is full or 20 ms old.
 * `read` copies the frames of the next block and returns it to the kernel. If the reader is too slow, the kernel drops
 * and counts frames; nothing here grows. A VLAN tag, which the kernel keeps apart from the frame, is inserted again.
 *
 * Limits: 4 MiB of ring. Frames before segmentation are seen whole (up to 64 KiB), and without the checksum that a card
 * would have filled in. See packet(7) and the kernel's networking/packet_mmap.
 */
import { AnkaError } from '../lib/errors.ts';
import type { CapturedFrame } from '../wire/pcapng.ts';
import { interfaceIndex } from './ethernet.ts';
import { run } from './exec.ts';
import type { BpfInstruction } from './ffi/classic-bpf.ts';
import { openPacketMemory, type PacketMemory } from './ffi/packet.ts';

const BLOCK_SIZE = 1 << 18;
const BLOCKS = 16;
const BLOCK_TIMEOUT_MS = 20;
const OWNER_IS_USER = 1;
const PACKET_OUTGOING = 4;
const VLAN_VALID = 1 << 4;
const VLAN_TPID_VALID = 1 << 6;
const VLAN_TPID = 0x8100;

/** Offsets in a block's header, and in the header of each frame of it. */
const BLOCK = { status: 8, frames: 12, first: 16 } as const;
const FRAME = { next: 0, seconds: 4, nanoseconds: 8, captured: 12, length: 16, status: 20, mac: 24, vlan: 32, tpid: 36, packetType: 58 } as const;

/** Most bytes captured of a frame. */
export const SNAP_LENGTH = BLOCK_SIZE;

/** A frame, with its direction as seen by this host. */
export interface HostFrame extends Omit<CapturedFrame, 'outbound'> {
  /** Outbound for the host. */
  sentByHost: boolean;
}

export class PacketRing {
  #socket: PacketMemory;
  #view: DataView;
  #words: Int32Array;
  #bytes: Uint8Array;
  #next = 0;
  #closed = false;
  #received = 0;
  #dropped = 0;

  /** Throws `network` if there is no such interface. */
  constructor(interfaceName: string, options: { promiscuous?: boolean; filter?: readonly BpfInstruction[] } = {}) {
    const index = interfaceIndex(interfaceName);
    if (index === null) throw new AnkaError('network', `interface ${interfaceName} does not exist`);
    this.#socket = openPacketMemory({
      interfaceIndex: index,
      promiscuous: options.promiscuous ?? false,
      filter: options.filter ?? [],
      blockSize: BLOCK_SIZE,
      blocks: BLOCKS,
      blockTimeout: BLOCK_TIMEOUT_MS,
    });
    this.#view = new DataView(this.#socket.memory);
    this.#words = new Int32Array(this.#socket.memory);
    this.#bytes = new Uint8Array(this.#socket.memory);
  }

  /** Copies of the frames of the next block; null if the kernel has not handed it over. */
  read(): HostFrame[] | null {
    if (this.#closed) return null;
    const at = this.#next * BLOCK_SIZE;
    if ((Atomics.load(this.#words, (at + BLOCK.status) / 4) & OWNER_IS_USER) === 0) return null;
    const frames: HostFrame[] = [];
    let f = at + this.#view.getUint32(at + BLOCK.first, true);
    for (let n = this.#view.getUint32(at + BLOCK.frames, true); n > 0; n--) {
      frames.push(this.#frame(f));
      f += this.#view.getUint32(f + FRAME.next, true);
    }
    Atomics.store(this.#words, (at + BLOCK.status) / 4, 0);
    this.#next = (this.#next + 1) % BLOCKS;
    return frames;
  }

  #frame(f: number): HostFrame {
    const v = this.#view;
    const start = f + v.getUint16(f + FRAME.mac, true);
    const captured = v.getUint32(f + FRAME.captured, true);
    const status = v.getUint32(f + FRAME.status, true);
    const tagged = (status & VLAN_VALID) !== 0 && captured >= 12;
    const data = new Uint8Array(captured + (tagged ? 4 : 0));
    if (tagged) {
      data.set(this.#bytes.subarray(start, start + 12));
      const tpid = (status & VLAN_TPID_VALID) !== 0 ? v.getUint16(f + FRAME.tpid, true) : VLAN_TPID;
      new DataView(data.buffer).setUint32(12, tpid * 65_536 + (v.getUint32(f + FRAME.vlan, true) & 0xffff));
      data.set(this.#bytes.subarray(start + 12, start + captured), 16);
    } else data.set(this.#bytes.subarray(start, start + captured));
    return {
      time: BigInt(v.getUint32(f + FRAME.seconds, true)) * 1_000_000_000n + BigInt(v.getUint32(f + FRAME.nanoseconds, true)),
      sentByHost: v.getUint8(f + FRAME.packetType) === PACKET_OUTGOING,
      data,
      length: v.getUint32(f + FRAME.length, true) + (tagged ? 4 : 0),
    };
  }

  /** Frames received, dropped ones included, and frames dropped because the ring was full, since it was opened. */
  counts(): { received: number; dropped: number } {
    if (!this.#closed) {
      const c = this.#socket.counts();
      this.#received += c.received;
      this.#dropped += c.dropped;
    }
    return { received: this.#received, dropped: this.#dropped };
  }

  close(): void {
    if (this.#closed) return;
    this.counts();
    this.#closed = true;
    this.#socket.close();
  }
}

/**
 * Compiles a filter in tcpdump's syntax, by tcpdump, for an interface, or for any Ethernet if it is null (which needs
 * no rights). Throws `missingProgram`, or `badValue` with tcpdump's message.
 */
export async function compileFilter(interfaceName: string | null, filter: string): Promise<BpfInstruction[]> {
  let text: string;
  try {
    text = await run('tcpdump', [
      ...(interfaceName === null ? ['-y', 'EN10MB'] : ['-p', '-i', interfaceName]),
      '-s',
      String(SNAP_LENGTH),
      '-ddd',
      '--',
      filter,
    ]);
  } catch (cause) {
    if (cause instanceof AnkaError && cause.kind === 'missingProgram')
      throw new AnkaError('missingProgram', "a filter needs the program 'tcpdump', which is not installed; install it with 'apt-get install tcpdump'", {
        cause,
      });
    throw new AnkaError('badValue', `the filter '${filter}' is invalid: ${(cause as Error).message.replace(/^.*tcpdump: /, '')}`, { cause });
  }
  return text
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => {
      const [code, jumpTrue, jumpFalse, k] = line.split(' ').map(Number) as [number, number, number, number];
      return { code, jumpTrue, jumpFalse, k };
    });
}
