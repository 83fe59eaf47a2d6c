/**
 * Comparison of 32-bit sequence numbers (RFC 1982, RFC 9293 3.4). A number may be given signed or unsigned; results are
 * signed 32-bit, so that V8 keeps them unboxed.
 */

/** Distance from `b` to `a`: −2^31 to 2^31−1. */
export function seqDiff(a: number, b: number): number {
  return (a - b) | 0;
}

/** `a` plus `n`, as a signed 32-bit number. */
export function seqAdd(a: number, n: number): number {
  return (a + n) | 0;
}
