/**
 * pcapng blocks (draft-ietf-opsawg-pcapng), written in little-endian: section header, one Ethernet interface, packets,
 * statistics. Pure.
 *
 * A capture is `sectionHeader`, `interfaceDescription`, any number of `enhancedPacket`, then `interfaceStatistics`.
 * Every block is self-contained, and a multiple of four bytes long. Times are nanoseconds since 1970, as bigint.
 * Limits: one interface per section; written, never read.
 */

const SECTION_HEADER = 0x0a0d0d0a;
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const INTERFACE_DESCRIPTION = 1;
const INTERFACE_STATISTICS = 5;
const ENHANCED_PACKET = 6;
const LINKTYPE_ETHERNET = 1;
const NANOSECONDS = 9;
/** Type and length before, length again after. */
const FRAME_BYTES = 12;
const OPTION_END = 0;

type Option = readonly [code: number, value: Uint8Array | string];

/** Bytes up to the next multiple of four. */
const padded = (length: number): number => (length + 3) & ~3;
const bytesOf = (value: Uint8Array | string): Uint8Array => (typeof value === 'string' ? new TextEncoder().encode(value) : value);

function optionsSize(options: readonly Option[]): number {
  return options.length === 0 ? 0 : options.reduce((sum, [, v]) => sum + 4 + padded(bytesOf(v).length), 4);
}

/** A block of `body` bytes and options; `fill` writes the body. */
function block(type: number, body: number, options: readonly Option[], fill: (view: DataView, bytes: Uint8Array) => void): Uint8Array {
  const size = FRAME_BYTES + padded(body) + optionsSize(options);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, size, true);
  fill(view, bytes);
  let at = 8 + padded(body);
  for (const [code, value] of options) {
    const v = bytesOf(value);
    view.setUint16(at, code, true);
    view.setUint16(at + 2, v.length, true);
    bytes.set(v, at + 4);
    at += 4 + padded(v.length);
  }
  if (options.length > 0) view.setUint32(at, OPTION_END, true);
  view.setUint32(size - 4, size, true);
  return bytes;
}

/** First block of a capture. `application` is the program that writes it. */
export function sectionHeader(application: string): Uint8Array {
  return block(SECTION_HEADER, 16, [[4, application]], (view) => {
    view.setUint32(8, BYTE_ORDER_MAGIC, true);
    view.setUint16(12, 1, true);
    view.setUint16(14, 0, true);
    view.setBigInt64(16, -1n, true); // length of the section: not known
  });
}

export interface CapturedInterface {
  name: string;
  /** What is captured, in words. */
  description: string;
  /** Bytes of a frame that are kept at most. */
  snapLength: number;
  /** Filter in tcpdump's syntax, or empty. */
  filter: string;
}

export function interfaceDescription(i: CapturedInterface): Uint8Array {
  const options: Option[] = [
    [2, i.name],
    [3, i.description],
    [9, Uint8Array.of(NANOSECONDS)],
  ];
  if (i.filter !== '') options.push([11, Uint8Array.of(0, ...bytesOf(i.filter))]); // 0: a libpcap filter string
  return block(INTERFACE_DESCRIPTION, 8, options, (view) => {
    view.setUint16(8, LINKTYPE_ETHERNET, true);
    view.setUint32(12, i.snapLength, true);
  });
}

export interface CapturedFrame {
  /** Nanoseconds since 1970. */
  time: bigint;
  /** The card sent it (else it received it). */
  outbound: boolean;
  /** From the Ethernet header on; may be truncated. */
  data: Uint8Array;
  /** Bytes on the wire. */
  length: number;
}

function setTime(view: DataView, at: number, time: bigint): void {
  view.setUint32(at, Number((time >> 32n) & 0xffffffffn), true);
  view.setUint32(at + 4, Number(time & 0xffffffffn), true);
}

export function enhancedPacket(f: CapturedFrame): Uint8Array {
  const flags = Uint8Array.of(f.outbound ? 2 : 1, 0, 0, 0);
  return block(ENHANCED_PACKET, 20 + f.data.length, [[2, flags]], (view, bytes) => {
    view.setUint32(8, 0, true);
    setTime(view, 12, f.time);
    view.setUint32(20, f.data.length, true);
    view.setUint32(24, f.length, true);
    bytes.set(f.data, 28);
  });
}

/** Last block of a capture. `received` includes the dropped frames. */
export function interfaceStatistics(s: { start: bigint; end: bigint; received: number; dropped: number }): Uint8Array {
  const time = (t: bigint): Uint8Array => {
    const v = new DataView(new ArrayBuffer(8));
    setTime(v, 0, t);
    return new Uint8Array(v.buffer);
  };
  const count = (n: number): Uint8Array => {
    const v = new DataView(new ArrayBuffer(8));
    v.setBigUint64(0, BigInt(n), true);
    return new Uint8Array(v.buffer);
  };
  const options: Option[] = [
    [2, time(s.start)],
    [3, time(s.end)],
    [4, count(s.received)],
    [5, count(s.dropped)],
  ];
  return block(INTERFACE_STATISTICS, 12, options, (view) => {
    view.setUint32(8, 0, true);
    setTime(view, 12, s.end);
  });
}
