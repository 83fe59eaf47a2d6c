/** DNS messages on a TCP connection: two bytes of length, then the message (RFC 1035, 4.2.2; RFC 7766, 8). */

/** A message with its length, to be sent at once. */
export function framed(message: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message]);
}

/** Splits a stream into messages. Holds what is pushed until it is taken, and at most one incomplete message. */
export class DnsFrames {
  #chunks: Buffer[] = [];
  /** Bytes of all chunks. */
  #length = 0;

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** The next complete message, as a copy; null if there is none yet. */
  next(): Uint8Array | null {
    if (this.#length < 2) return null;
    const end = 2 + this.#firstLength();
    if (this.#length < end) return null;
    const all = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
    const rest = all.subarray(end);
    this.#chunks = rest.length > 0 ? [rest] : [];
    this.#length = rest.length;
    return new Uint8Array(all.subarray(2, end));
  }

  #firstLength(): number {
    const [first, second] = this.#chunks as [Buffer, Buffer?];
    return ((first[0] as number) << 8) | ((first.length > 1 ? first[1] : second?.[0]) as number);
  }
}
