/**
 * The memory in which all frames of a network process live.
 *
 * Theory of operation. One fixed, never growing WebAssembly.Memory, so that the kernels (src/net/memory/kernels.ts) and
 * JavaScript see the same bytes, and sockets read into and write from it without a copy. Handed out in 64-byte aligned
 * pieces that are never given back: owners pool what they took. Untouched pages cost nothing.
 *
 * Limits. `alloc` throws when the memory is full; a pool that can do without (a flow's buffers) asks `has` first.
 */
import { AnkaError } from '../../lib/errors.ts';

const PAGE = 65536;
const ALIGN = 64;
/** Offset 0 is never handed out, so that 0 can mean "none". */
const FIRST = 4096;
const DEFAULT_BYTES = 512 << 20;

export class PacketMemory {
  readonly memory: WebAssembly.Memory;
  readonly u8: Uint8Array;
  /** The same bytes as words of the machine (little-endian), for descriptors that the kernels write. */
  readonly i32: Int32Array;
  readonly view: DataView;
  #top = FIRST;

  constructor(bytes = DEFAULT_BYTES) {
    const pages = Math.ceil(bytes / PAGE);
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.u8 = new Uint8Array(this.memory.buffer);
    this.i32 = new Int32Array(this.memory.buffer);
    this.view = new DataView(this.memory.buffer);
  }

  /** Whether `alloc(bytes)` would succeed. */
  has(bytes: number): boolean {
    return this.#top + bytes <= this.u8.length;
  }

  /** 64-byte aligned, zeroed. Throws when full. */
  alloc(bytes: number): number {
    if (!this.has(bytes)) throw new AnkaError('internal', `the packet memory is full (${this.u8.length >> 20} MiB)`);
    const at = this.#top;
    this.#top = (at + bytes + ALIGN - 1) & ~(ALIGN - 1);
    return at;
  }

  /** A view for node:net: once per buffer or chunk, not per packet. */
  buffer(offset: number, length: number): Buffer {
    return Buffer.from(this.memory.buffer, offset, length);
  }
}
