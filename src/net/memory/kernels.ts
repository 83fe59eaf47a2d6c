/**
 * The compiled kernels of assembly/kernels.ts on one packet memory. Offsets are bytes in that memory.
 *
 * `coalesce` describes each merged run of segments by 12 words at `descriptors`; `Descriptor` names them by index into
 * `PacketMemory.i32`.
 */
import { KERNELS } from './kernels-wasm.ts';
import type { PacketMemory } from './packet-memory.ts';

/** Words of a descriptor. */
export const Descriptor = {
  /** 0 = none, 1 = malformed, 2 = wrong checksum; with a problem, only `ip` is set as well. */
  problem: 0,
  /** Offset of the first frame's IPv4 header. */
  ip: 1,
  /** Offset of the first frame's TCP header. */
  tcp: 2,
  /** Offset and bytes of the merged payload. */
  payload: 3,
  length: 4,
  /** Sequence number of the first byte. */
  seq: 5,
  /** Of the last segment. */
  ack: 6,
  /** Window as on the wire (low half) and flags (high half) of the last segment. */
  windowFlags: 7,
  /** How many segments with payload were merged; 1 for a single one, with or without payload. */
  segments: 8,
  source: 9,
  destination: 10,
  /** Source port (high half), destination port (low half). */
  ports: 11,
} as const;
/** Words of one descriptor. */
export const DESCRIPTOR_WORDS = 12;

export interface Kernels {
  /** One's-complement sum of little-endian words, folded to 16 bits, not inverted. */
  checksum(offset: number, length: number): number;
  copyChecksum(to: number, from: number, length: number): number;
  /** Cuts payload into length-prefixed segments; returns the bytes written, payload + 58 per segment. */
  segment(to: number, from: number, length: number, mss: number, template: number, seq: number, ipId: number): number;
  /**
   * Merges segments in place; returns the number of descriptors. The word before `descriptors` receives the offset
   * where it stopped.
   */
  coalesce(start: number, end: number, descriptors: number, max: number): number;
}

/** Bytes that `segment` writes before each payload. */
export const SEGMENT_HEADERS = 58;

let compiled: WebAssembly.Module | null = null;

export function loadKernels(memory: PacketMemory): Kernels {
  compiled ??= new WebAssembly.Module(Buffer.from(KERNELS, 'base64'));
  return new WebAssembly.Instance(compiled, { env: { memory: memory.memory } }).exports as unknown as Kernels;
}
