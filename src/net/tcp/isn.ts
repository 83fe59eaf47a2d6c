/** Unpredictable initial sequence numbers (RFC 6528): a 4 µs clock plus a keyed hash of the connection. */
import { sipHash } from '../../lib/siphash.ts';

/**
 * Returns a signed 32-bit number. `secret`: at least 16 random bytes, constant for the life of the process. `now` in
 * milliseconds.
 */
export function initialSequence(secret: Buffer, guestIp: number, peerIp: number, ports: number, now: number): number {
  return (sipHash(secret, guestIp, peerIp, ports) + Math.floor((now * 250) % 0x1_0000_0000)) | 0;
}
