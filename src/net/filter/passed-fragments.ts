/**
 * Fragmented packets whose first fragment a filter has let through, so that the later ones, which show no ports, pass.
 *
 * Limits: 256 packets, each in the slot of its hash: another packet of that slot replaces it. A packet that is not
 * complete after ten seconds is forgotten.
 */
import { randomBytes } from 'node:crypto';

const SLOTS = 256;
export const FRAGMENTS_SECONDS = 10;

/** What its fragments have in common (RFC 791). */
export interface FragmentedPacket {
  protocol: number;
  source: number;
  destination: number;
  id: number;
}

export class PassedFragments {
  readonly #sources = new Uint32Array(SLOTS);
  readonly #destinations = new Uint32Array(SLOTS);
  /** Identification, and the protocol. */
  readonly #ids = new Uint32Array(SLOTS);
  readonly #until = new Float64Array(SLOTS);
  readonly #secret = randomBytes(4).readUInt32LE() | 1;

  add(p: FragmentedPacket, now: number): void {
    const i = this.#slot(p);
    this.#sources[i] = p.source;
    this.#destinations[i] = p.destination;
    this.#ids[i] = (p.id << 8) | p.protocol;
    this.#until[i] = now + 1000 * FRAGMENTS_SECONDS;
  }

  has(p: FragmentedPacket, now: number): boolean {
    const i = this.#slot(p);
    const isSame = this.#sources[i] === p.source && this.#destinations[i] === p.destination && this.#ids[i] === ((p.id << 8) | p.protocol);
    return isSame && (this.#until[i] as number) > now;
  }

  clear(): void {
    this.#until.fill(0);
  }

  #slot(p: FragmentedPacket): number {
    const h = Math.imul(p.source ^ Math.imul(p.destination, this.#secret) ^ ((p.id << 8) | p.protocol), 0x9e3779b1);
    return (h ^ (h >>> 16)) & (SLOTS - 1);
  }
}
