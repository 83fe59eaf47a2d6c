/**
 * Makes a TCP connection between NICs of different MTUs use the smaller one: lowers the MSS option of a SYN in place,
 * and updates its checksum (RFC 1624).
 */
import { fold16, get16, put16 } from '../../wire/bytes.ts';
import { TCP, TCP_HEADER } from '../../wire/tcp.ts';

const OPTION = { end: 0, nop: 1, mss: 2 } as const;

/**
 * `tcp` is the offset of a SYN's TCP header, `end` that of the packet's end. A SYN without the option is left as it is.
 */
export function clampMss(b: Uint8Array, tcp: number, end: number, most: number): void {
  const stop = Math.min(end, tcp + ((b[tcp + TCP.offset] >> 4) << 2));
  for (let o = tcp + TCP_HEADER; o < stop; ) {
    if (b[o] === OPTION.end) return;
    if (b[o] === OPTION.nop) {
      o++;
      continue;
    }
    if (o + 1 >= stop || b[o + 1] < 2 || o + b[o + 1] > stop) return;
    if (b[o] === OPTION.mss && b[o + 1] === 4) {
      const old = get16(b, o + 2);
      if (old <= most) return;
      put16(b, o + 2, most);
      // at an odd offset the bytes are swapped in the sum
      const swap = (v: number): number => ((o + 2 - tcp) & 1 ? ((v & 255) << 8) | (v >> 8) : v);
      put16(b, tcp + TCP.checksum, ~fold16((~get16(b, tcp + TCP.checksum) & 0xffff) + (~swap(old) & 0xffff) + swap(most)) & 0xffff);
      return;
    }
    o += b[o + 1];
  }
}
