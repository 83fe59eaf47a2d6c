/**
 * Outside MAC addresses (B40): three bytes of prefix, three random bytes, unique among those in use.
 *
 * For a NIC with an inside MAC, the last two bytes are chosen so that both addresses have the same one's-complement
 * sum. Replacing one by the other then keeps every Internet checksum over them valid, even where a translator cannot
 * reach the checksum.
 */
import { AnkaError } from '../lib/errors.ts';

const sum16 = (mac: number): number => (Math.floor(mac / 2 ** 32) + (Math.floor(mac / 65_536) % 65_536) + (mac % 65_536)) % 65_535;

/**
 * Returns an address that is not in `used`. `prefix` is the first three bytes as a number; `random` returns 24 random
 * bits. Throws `poolExhausted`.
 */
export function drawMac(prefix: number, used: ReadonlySet<number>, random: () => number, insideMac?: number): number {
  for (let attempt = 0; attempt < 65_536; attempt++) {
    const bits = random() & 0xffffff;
    let mac = prefix * 2 ** 24 + bits;
    if (insideMac !== undefined) {
      const upper = prefix * 2 ** 24 + (bits & 0xff0000);
      mac = upper + ((sum16(insideMac) - sum16(upper) + 65_535) % 65_535);
    }
    if (!used.has(mac)) return mac;
  }
  throw new AnkaError('poolExhausted', 'no free MAC address is left in the pool; stop some VMs, or change permanent_mac_prefix');
}
