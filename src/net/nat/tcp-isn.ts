/** Initial sequence numbers that cannot be guessed (RFC 6528): a clock of 4 µs plus a keyed hash of the connection. */
import { createHmac } from 'node:crypto';

/** `secret`: at least 16 random bytes, the same for the life of the process. `now` in milliseconds. A signed 32-bit number. */
export function initialSequence(secret: Buffer, guestIp: number, peerIp: number, ports: number, now: number): number {
  const four = Buffer.allocUnsafe(12);
  four.writeInt32BE(guestIp | 0, 0);
  four.writeInt32BE(peerIp | 0, 4);
  four.writeInt32BE(ports | 0, 8);
  const hash = createHmac('sha1', secret).update(four).digest().readInt32BE(0);
  return (hash + Math.floor((now * 250) % 0x1_0000_0000)) | 0;
}
