/** TCP (RFC 9293): where the fields are, from the start of the header, and the options of a SYN. */

export const TCP_HEADER = 20;
export const TCP = { source: 0, destination: 2, seq: 4, ack: 8, offset: 12, flags: 13, window: 14, checksum: 16, urgent: 18, options: 20 } as const;
export const TcpFlag = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16, urg: 32 } as const;
const OPTION = { end: 0, nop: 1, mss: 2, windowScale: 3 } as const;

/** The MSS when a SYN names none (RFC 9293 3.7.1), and the largest shift (RFC 7323 2.3). */
export const DEFAULT_MSS = 536;
const MAX_SHIFT = 14;

/** What we use of a SYN's options. */
export interface SynOptions {
  /** Bytes, 1–65535; 0 when the option is absent or zero. */
  mss: number;
  /** 0–14; −1 when the option is absent, and windows are not scaled in either direction. */
  windowScale: number;
}

/** Options between the fixed header and `end`. A malformed option ends the list, as if it were not there. */
export function parseSynOptions(u8: Uint8Array, start: number, end: number): SynOptions {
  const found: SynOptions = { mss: 0, windowScale: -1 };
  for (let i = start; i < end; ) {
    const kind = u8[i]!;
    if (kind === OPTION.end) break;
    if (kind === OPTION.nop) {
      i++;
      continue;
    }
    const length = i + 1 < end ? u8[i + 1]! : 0;
    if (length < 2 || i + length > end) break;
    if (kind === OPTION.mss && length === 4) found.mss = (u8[i + 2]! << 8) | u8[i + 3]!;
    if (kind === OPTION.windowScale && length === 3) found.windowScale = Math.min(u8[i + 2]!, MAX_SHIFT);
    i += length;
  }
  return found;
}

/** Writes our options, MSS first; `windowScale` −1 leaves that one out. Returns the bytes written, a multiple of 4. */
export function writeSynOptions(u8: Uint8Array, at: number, options: SynOptions): number {
  u8[at] = OPTION.mss;
  u8[at + 1] = 4;
  u8[at + 2] = options.mss >>> 8;
  u8[at + 3] = options.mss;
  if (options.windowScale < 0) return 4;
  u8[at + 4] = OPTION.nop;
  u8[at + 5] = OPTION.windowScale;
  u8[at + 6] = 3;
  u8[at + 7] = options.windowScale;
  return 8;
}
