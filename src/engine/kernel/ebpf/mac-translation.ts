/**
 * Translation of guests' MAC addresses (B41–B43): which interfaces have it, and that they go on having it.
 *
 * Theory of operation: bpf/mac-translate.bpf.c is compiled once and committed. Its two addresses are constants of its
 * instructions; they are written into a copy of the object, which is attached to the hooks of the card's interface and
 * then removed. What is in force is asked of the kernel, never remembered: the filter's name tells the addresses, and
 * the program's tag, a digest of its instructions, must be that of the copy we would attach now. So translations are
 * adopted after a crash, and put back when somebody took them away or put another program in their place. Replacing is
 * atomic. A card that needs a translation and has none is not plugged in; should it lose it, then the guard drops what
 * it says.
 *
 * The same program also checks neighbour discovery, so cards without `--mac` have it too, with both addresses the same
 * (B91). There it may be missing: a kernel that takes no eBPF is told of once.
 *
 * Limits: little-endian hosts; Linux 5.3 and later, with tc of iproute2 5.10 and later.
 */

import { createHash } from 'node:crypto';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ebpfRefusal } from '../../../host/ffi/bpf.ts';
import type { Link } from '../../../host/links.ts';
import { type BpfFilter, ensureClsact, listBpfFilters, removeFilter, replaceBpfFilter, type TcDirection } from '../../../host/tc.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { PACKAGE_ROOT } from '../../../lib/package-root.ts';
import type { DesiredState } from '../../engine.ts';
import { tapName } from '../names.ts';
import { withoutEbpf } from './needs.ts';

/** A card's interface and its two addresses. */
interface Translation {
  device: string;
  insideMac: number;
  outsideMac: number;
}

const OBJECT = new URL('assets/bpf/mac-translate.bpf.o', PACKAGE_ROOT);
const NAME_PREFIX = 'anka-mac-';
const PREFERENCE = 1;
const PROGRAMS: readonly { direction: TcDirection; section: string }[] = [
  { direction: 'ingress', section: 'tc/from_guest' },
  { direction: 'egress', section: 'tc/to_guest' },
];
/** Constants in the source that stand for the addresses. */
const PLACEHOLDERS = { inside: 0x4544495341414b4en, outside: 0x4544495455414b4en } as const;
const LOAD_CONSTANT = 0x18;
const INSTRUCTION = 8;

/** Where a section's bytes are in a 64-bit little-endian ELF object. */
function sectionRange(elf: Buffer, name: string): { start: number; end: number } {
  const table = Number(elf.readBigUInt64LE(0x28));
  const entry = elf.readUInt16LE(0x3a);
  const count = elf.readUInt16LE(0x3c);
  const offsetOf = (i: number): number => Number(elf.readBigUInt64LE(table + i * entry + 0x18));
  const names = offsetOf(elf.readUInt16LE(0x3e));
  for (let i = 0; i < count; i++) {
    const at = names + elf.readUInt32LE(table + i * entry);
    if (elf.toString('latin1', at, elf.indexOf(0, at)) !== name) continue;
    const start = offsetOf(i);
    return { start, end: start + Number(elf.readBigUInt64LE(table + i * entry + 0x20)) };
  }
  throw new AnkaError('internal', `the eBPF object has no section ${name}`);
}

/** Writes an address over the one instruction that loads a placeholder. */
function patch(code: Buffer, placeholder: bigint, mac: number): void {
  const low = Number(placeholder & 0xffffffffn);
  const high = Number(placeholder >> 32n);
  let found = 0;
  for (let at = 0; at + 2 * INSTRUCTION <= code.length; at += INSTRUCTION) {
    if (code[at] !== LOAD_CONSTANT || code.readUInt32LE(at + 4) !== low || code.readUInt32LE(at + INSTRUCTION + 4) !== high) continue;
    const bytes = Buffer.alloc(8); // the first byte of the address is the lowest of the number
    bytes.writeUIntBE(mac, 0, 6);
    bytes.copy(code, at + 4, 0, 4);
    bytes.copy(code, at + INSTRUCTION + 4, 4, 8);
    found++;
  }
  if (found !== 1) throw new AnkaError('internal', `the eBPF object has ${found} places for an address in a program, not one`);
}

/**
 * An object for two addresses, and the tags its programs will have: Linux took SHA-1 for them until 6.17, then SHA-256.
 */
export function objectFor(template: Buffer, insideMac: number, outsideMac: number): { bytes: Buffer; tags: Map<string, string[]> } {
  const bytes = Buffer.from(template);
  const tags = new Map<string, string[]>();
  for (const { section } of PROGRAMS) {
    const { start, end } = sectionRange(bytes, section);
    const code = bytes.subarray(start, end);
    patch(code, PLACEHOLDERS.inside, insideMac);
    patch(code, PLACEHOLDERS.outside, outsideMac);
    tags.set(
      section,
      (['sha1', 'sha256'] as const).map((h) => createHash(h).update(code).digest('hex').slice(0, 16)),
    );
  }
  return { bytes, tags };
}

const hex = (mac: number): string => mac.toString(16).padStart(12, '0');

export class MacTranslations {
  #dir: string;
  #warn: (o: object, message: string) => void;
  #template: Promise<Buffer> | null = null;
  /** Set once this kernel refused eBPF for what is only checked. */
  #checksRefused = false;
  /** Why a check could not be attached the last time, though the kernel takes eBPF: told once. */
  #checkFailed = '';
  /**
   * Filters with a tag that is neither digest, as a later kernel may take another: `NAME TAG`, seen right after we
   * attached them.
   */
  #otherTags = new Set<string>();

  /** `dir` is a folder for the copies, ours alone. */
  constructor(dir: string, warn: (o: object, message: string) => void) {
    this.#dir = dir;
    this.#warn = warn;
  }

  /**
   * Brings the cards that have an interface to what is wanted. Tells which cards (by id) must not be plugged in, and
   * why.
   */
  async apply(desired: DesiredState, links: readonly Link[]): Promise<Map<string, string>> {
    const there = new Set(links.map((l) => l.name));
    const cards = desired.nics.filter((n) => there.has(tapName(n.id)));
    const unplugged = new Map<string, string>();
    let found: Map<string, BpfFilter[]>;
    try {
      found = await listBpfFilters(cards.map((n) => tapName(n.id)));
    } catch (cause) {
      this.#warn({ error: (cause as Error).message }, 'it is not known which translations are in force');
      const why = `it is not known whether its MAC address is translated, so it is not plugged in: ${(cause as Error).message}`;
      return new Map(cards.filter((n) => n.insideMac !== n.outsideMac).map((n) => [n.id, why]));
    }
    for (const nic of cards) {
      const device = tapName(nic.id);
      const filters = found.get(device) ?? [];
      const translated = nic.insideMac !== nic.outsideMac;
      const checked = (nic.type === 'shared' || nic.type === 'host') && !this.#checksRefused;
      try {
        if (translated || checked) await this.#bring({ device, insideMac: nic.insideMac, outsideMac: nic.outsideMac }, filters);
        else for (const f of filters) if (f.name.startsWith(NAME_PREFIX)) await removeFilter(device, f.direction, f.preference);
      } catch (cause) {
        const why = (cause as Error).message;
        const refusal = ebpfRefusal();
        if (translated)
          unplugged.set(nic.id, refusal === null ? `its MAC address cannot be translated, so it is not plugged in: ${why}` : withoutEbpf(nic, refusal));
        else {
          // what passes, as an interface that went away meanwhile, is tried again at the next check
          this.#checksRefused = refusal !== null;
          if (why !== this.#checkFailed)
            this.#warn({ device, error: why }, 'no eBPF at tc: neighbour discovery of guests is checked by the Ethernet address only');
          this.#checkFailed = why;
        }
      }
    }
    return unplugged;
  }

  async #bring(w: Translation, found: readonly BpfFilter[]): Promise<void> {
    this.#template ??= readFile(OBJECT);
    const { bytes, tags } = objectFor(await this.#template, w.insideMac, w.outsideMac);
    const file = `${NAME_PREFIX}${hex(w.insideMac)}-${hex(w.outsideMac)}.o`;
    const attached = (filters: readonly BpfFilter[], p: (typeof PROGRAMS)[number]): BpfFilter | undefined =>
      filters.find((f) => f.direction === p.direction && f.preference === PREFERENCE && f.directAction && f.name === `${file}:[${p.section}]`);
    const missing = PROGRAMS.filter((p) => {
      const f = attached(found, p);
      return f === undefined || !(tags.get(p.section)?.includes(f.tag) || this.#otherTags.has(`${f.name} ${f.tag}`));
    });
    if (missing.length === 0) return;
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const object = join(this.#dir, file);
    await writeFile(object, bytes, { mode: 0o600 });
    try {
      await ensureClsact(w.device);
      for (const { direction, section } of missing) await replaceBpfFilter(w.device, { direction, preference: PREFERENCE, object, section });
    } finally {
      await rm(object, { force: true });
    }
    const now = (await listBpfFilters([w.device])).get(w.device) ?? [];
    for (const p of missing) {
      const f = attached(now, p);
      if (f === undefined) throw new AnkaError('network', `the program ${p.section} is not at ${w.device}, though tc attached it`);
      if (!tags.get(p.section)?.includes(f.tag)) this.#otherTags.add(`${f.name} ${f.tag}`);
    }
  }
}
