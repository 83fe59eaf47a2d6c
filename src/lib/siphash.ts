/**
 * SipHash-2-4 of three 32-bit words: a keyed hash that cannot be predicted without the key. Takes a third of a
 * microsecond. 64-bit words are held as two halves.
 *
 * Read first: Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).
 */

/** Length of the message, as encoded in its last word. */
const LENGTH = 12 << 24;

/**
 * Returns the lower 32 bits of the hash of the words in little-endian order, as a signed number. `key`: the first 16
 * bytes are used.
 */
export function sipHash(key: Buffer, a: number, b: number, c: number): number {
  const k0l = key.readInt32LE(0);
  const k0h = key.readInt32LE(4);
  const k1l = key.readInt32LE(8);
  const k1h = key.readInt32LE(12);
  let v0l = k0l ^ 0x70736575;
  let v0h = k0h ^ 0x736f6d65;
  let v1l = k1l ^ 0x6e646f6d;
  let v1h = k1h ^ 0x646f7261;
  let v2l = k0l ^ 0x6e657261;
  let v2h = k0h ^ 0x6c796765;
  let v3l = k1l ^ 0x79746573 ^ a;
  let v3h = k1h ^ 0x74656462 ^ b;
  for (let round = 1; round <= 8; round++) {
    // v0 += v1, v1 <<<= 13, v1 ^= v0, v0 <<<= 32
    let l = (v0l + v1l) | 0;
    let h = (v0h + v1h + (l >>> 0 < v1l >>> 0 ? 1 : 0)) | 0;
    let t = (v1l << 13) | (v1h >>> 19);
    v1h = ((v1h << 13) | (v1l >>> 19)) ^ h;
    v1l = t ^ l;
    v0l = h;
    v0h = l;
    // v2 += v3, v3 <<<= 16, v3 ^= v2
    v2l = (v2l + v3l) | 0;
    v2h = (v2h + v3h + (v2l >>> 0 < v3l >>> 0 ? 1 : 0)) | 0;
    t = (v3l << 16) | (v3h >>> 16);
    v3h = ((v3h << 16) | (v3l >>> 16)) ^ v2h;
    v3l = t ^ v2l;
    // v0 += v3, v3 <<<= 21, v3 ^= v0
    v0l = (v0l + v3l) | 0;
    v0h = (v0h + v3h + (v0l >>> 0 < v3l >>> 0 ? 1 : 0)) | 0;
    t = (v3l << 21) | (v3h >>> 11);
    v3h = ((v3h << 21) | (v3l >>> 11)) ^ v0h;
    v3l = t ^ v0l;
    // v2 += v1, v1 <<<= 17, v1 ^= v2, v2 <<<= 32
    l = (v2l + v1l) | 0;
    h = (v2h + v1h + (l >>> 0 < v1l >>> 0 ? 1 : 0)) | 0;
    t = (v1l << 17) | (v1h >>> 15);
    v1h = ((v1h << 17) | (v1l >>> 15)) ^ h;
    v1l = t ^ l;
    v2l = h;
    v2h = l;
    if (round === 2) {
      v0l ^= a;
      v0h ^= b;
      v3l ^= c;
      v3h ^= LENGTH;
    } else if (round === 4) {
      v0l ^= c;
      v0h ^= LENGTH;
      v2l ^= 0xff;
    }
  }
  return v0l ^ v1l ^ v2l ^ v3l;
}
