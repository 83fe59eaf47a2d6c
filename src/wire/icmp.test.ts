import { describe, expect, test } from 'vitest';
import { emitIcmpError, IcmpType, icmpErrorSize, nextHopMtu, quotedPacket, Unreachable } from './icmp.ts';
import { emitIpv4, IpProtocol } from './ipv4.ts';

/** An error about a packet of 1,500 bytes from 198.51.100.1, of which it quotes `quoted` bytes. */
function errorAbout(quoted: number, change: (packet: Uint8Array) => void = () => {}): Uint8Array {
  const packet = new Uint8Array(quoted).fill(0xa5);
  if (quoted >= 20) emitIpv4(packet, 0, { total: 1500, id: 7, fragment: 0x4000, protocol: IpProtocol.tcp, source: 0xc6336401, destination: 0xc0a84002 });
  change(packet);
  const error = new Uint8Array(icmpErrorSize(quoted));
  emitIcmpError(error, 0, IcmpType.unreachable, Unreachable.fragmentationNeeded, 1280, packet, 0, quoted);
  return error;
}

describe('the packet that an error quotes (RFC 792)', () => {
  test('header, and the offset of 8 bytes of its payload', () => {
    const error = errorAbout(28);
    const quoted = { protocol: IpProtocol.tcp, source: 0xc6336401, destination: 0xc0a84002, total: 1500, at: 28 };
    expect(quotedPacket(error, 0, error.length)).toEqual(quoted);
    expect(nextHopMtu(error, 0)).toBe(1280);
    const withOptions = errorAbout(32, (p) => {
      p[0] = 0x46;
    });
    expect(quotedPacket(withOptions, 0, withOptions.length)).toEqual({ ...quoted, at: 32 });
  });

  test('every truncation, other versions, later fragments, and impossible lengths: none', () => {
    const error = errorAbout(28);
    for (let end = 0; end < error.length; end++) expect(quotedPacket(error, 0, end)).toBeNull();
    const changes: ((p: Uint8Array) => void)[] = [
      (p) => p.set([0x65], 0),
      (p) => p.set([0x44], 0),
      (p) => p.set([0x46], 0),
      (p) => p.set([0x4f], 0),
      (p) => p.set([0, 27], 2),
      (p) => p.set([0x20, 1], 6),
    ];
    for (const change of changes) {
      const b = errorAbout(28, change);
      expect(quotedPacket(b, 0, b.length)).toBeNull();
    }
  });
});
