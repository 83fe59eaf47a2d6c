/**
 * Makes a TCP connection between cards of different MTUs use the smaller one: the MSS option of a SYN is lowered in
 * place, its checksum mended (RFC 1624).
 */
import { fold16, get16, put16 } from '../../wire/bytes.ts';
import { TCP, TCP_HEADER } from '../../wire/tcp.ts';

const OPTION = { end: 0, nop: 1, mss: 2 } as const;

/**
 * `tcp` is the offset of the TCP header of a SYN, `end` that of the packet's end. Nothing is added where there is no
 * option.
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
      // an option may begin at an odd place: then its bytes stand in exchanged order in the sum
      const swap = (v: number): number => ((o + 2 - tcp) & 1 ? ((v & 255) << 8) | (v >> 8) : v);
      put16(b, tcp + TCP.checksum, ~fold16((~get16(b, tcp + TCP.checksum) & 0xffff) + (~swap(old) & 0xffff) + swap(most)) & 0xffff);
      return;
    }
    o += b[o + 1];
  }
}
