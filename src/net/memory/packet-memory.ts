/**
 * The memory that holds all frames of a network process.
 *
 * Theory of operation. One WebAssembly.Memory of fixed size, so that the kernels (src/net/memory/kernels.ts) and
 * JavaScript share the same bytes, and sockets read into and write from it without a copy. Allocations are 64-byte
 * aligned and never freed; owners pool what they allocated. Untouched pages use no memory.
 *
 * Limits. `alloc` throws when the memory is full. A pool that can do without (a flow's buffers) asks `has` first.
 */
import { AnkaError } from '../../lib/errors.ts';

const PAGE = 65536;
const ALIGN = 64;
/** Offset 0 is never allocated, so that 0 can mean "none". */
const FIRST = 4096;
const DEFAULT_BYTES = 512 << 20;

export class PacketMemory {
  readonly memory: WebAssembly.Memory;
  readonly u8: Uint8Array;
  /** The same bytes as little-endian words, for descriptors that the kernels write. */
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

  /** A view for node:net. Create it once per buffer or chunk, not per packet. */
  buffer(offset: number, length: number): Buffer {
    return Buffer.from(this.memory.buffer, offset, length);
  }
}
