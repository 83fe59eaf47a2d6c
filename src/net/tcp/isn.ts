/** Initial sequence numbers that cannot be guessed (RFC 6528): a clock of 4 µs plus a keyed hash of the connection. */
import { sipHash } from '../../lib/siphash.ts';

/**
 * `secret`: at least 16 random bytes, the same for the life of the process. `now` in milliseconds. A signed 32-bit
 * number.
 */
export function initialSequence(secret: Buffer, guestIp: number, peerIp: number, ports: number, now: number): number {
  return (sipHash(secret, guestIp, peerIp, ports) + Math.floor((now * 250) % 0x1_0000_0000)) | 0;
}
