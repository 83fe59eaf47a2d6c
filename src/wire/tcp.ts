/**
 * TCP (RFC 9293): field offsets from the start of the header, the options of a SYN, and selective acknowledgements (RFC
 * 2018).
 */

export const TCP_HEADER = 20;
export const TCP = { source: 0, destination: 2, seq: 4, ack: 8, offset: 12, flags: 13, window: 14, checksum: 16, urgent: 18, options: 20 } as const;
export const TcpFlag = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16, urg: 32 } as const;
const OPTION = { end: 0, nop: 1, mss: 2, windowScale: 3, sackPermitted: 4, sack: 5 } as const;

/** The MSS when a SYN names none (RFC 9293 3.7.1), and the largest shift (RFC 7323 2.3). */
export const DEFAULT_MSS = 536;
const MAX_SHIFT = 14;

/** The options of a SYN that are used. */
export interface SynOptions {
  /** Bytes, 1–65535; 0 when the option is absent or zero. */
  mss: number;
  /** 0–14; −1 when the option is absent, and windows are not scaled in either direction. */
  windowScale: number;
  /** Its sender supports selective acknowledgements. */
  sack: boolean;
}

/** Parses the options between the fixed header and `end`. A malformed option ends the list, and is ignored. */
export function parseSynOptions(u8: Uint8Array, start: number, end: number): SynOptions {
  const found: SynOptions = { mss: 0, windowScale: -1, sack: false };
  for (let i = start; i < end; ) {
    const kind = u8[i];
    if (kind === OPTION.end) break;
    if (kind === OPTION.nop) {
      i++;
      continue;
    }
    const length = i + 1 < end ? u8[i + 1] : 0;
    if (length < 2 || i + length > end) break;
    if (kind === OPTION.mss && length === 4) found.mss = (u8[i + 2] << 8) | u8[i + 3];
    if (kind === OPTION.windowScale && length === 3) found.windowScale = Math.min(u8[i + 2], MAX_SHIFT);
    if (kind === OPTION.sackPermitted && length === 2) found.sack = true;
    i += length;
  }
  return found;
}

/** Writes a SYN's options, MSS first; `windowScale` −1 omits that one. Returns the bytes written, a multiple of 4. */
export function writeSynOptions(u8: Uint8Array, at: number, options: SynOptions): number {
  u8[at] = OPTION.mss;
  u8[at + 1] = 4;
  u8[at + 2] = options.mss >>> 8;
  u8[at + 3] = options.mss;
  let n = 4;
  if (options.windowScale >= 0) {
    u8[at + n] = OPTION.nop;
    u8[at + n + 1] = OPTION.windowScale;
    u8[at + n + 2] = 3;
    u8[at + n + 3] = options.windowScale;
    n += 4;
  }
  if (options.sack) {
    u8[at + n] = OPTION.nop;
    u8[at + n + 1] = OPTION.nop;
    u8[at + n + 2] = OPTION.sackPermitted;
    u8[at + n + 3] = 2;
    n += 4;
  }
  return n;
}

/** Upper bound for the options of a segment. */
export const MAX_OPTIONS = 40;
/** Blocks of a selective acknowledgement that fit without other options. */
export const MAX_SACK_BLOCKS = 4;

/**
 * Reads the first selective acknowledgement of the TCP header at `tcp` in u8's and view's memory into `edges`: pairs as
 * in `writeSack`. Returns how many blocks; 0 when there are none, or when the options are malformed.
 */
export function readSack(u8: Uint8Array, view: DataView, tcp: number, edges: Int32Array): number {
  const end = tcp + ((u8[tcp + TCP.offset] >> 4) << 2);
  for (let i = tcp + TCP.options; i + 1 < end; ) {
    const kind = u8[i];
    if (kind === OPTION.end) return 0;
    if (kind === OPTION.nop) {
      i++;
      continue;
    }
    const length = u8[i + 1];
    if (length < 2 || i + length > end) return 0;
    if (kind === OPTION.sack) {
      const blocks = Math.min(MAX_SACK_BLOCKS, (length - 2) >> 3);
      for (let b = 0; b < 2 * blocks; b++) edges[b] = view.getInt32(i + 2 + 4 * b);
      return blocks;
    }
    i += length;
  }
  return 0;
}

/**
 * Writes `blocks` pairs of `edges` (first sequence number, and the one after the last), for an ACK. Returns the bytes
 * written, a multiple of 4.
 */
export function writeSack(view: DataView, at: number, edges: Int32Array, blocks: number): number {
  view.setUint16(at, (OPTION.nop << 8) | OPTION.nop);
  view.setUint16(at + 2, (OPTION.sack << 8) | (2 + 8 * blocks));
  for (let i = 0; i < 2 * blocks; i++) view.setInt32(at + 4 + 4 * i, edges[i]);
  return 4 + 8 * blocks;
}
