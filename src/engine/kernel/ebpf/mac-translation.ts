/**
 * Translation of guests' MAC addresses (B41–B43): attaches bpf/mac-translate.bpf.c to taps, and keeps it attached.
 *
 * Theory of operation: the two addresses are operands of the program's instructions, written into a copy of the object
 * for each NIC. What is in force is read from the kernel, never remembered. The filter's name contains the addresses;
 * the program's tag, a digest of its instructions, must be that of the copy we would attach now. So translations are
 * adopted after a crash, and restored after somebody removed or replaced a program. Replacing is atomic. A NIC whose
 * translation is missing is not attached; if it loses its translation later, the guard drops its frames.
 *
 * The same program checks neighbour discovery, so NICs without `--mac` have it too, with two equal addresses (B91).
 * There it is optional: if eBPF is not available, one warning is logged.
 *
 * Limits: little-endian hosts; Linux 5.3 and later.
 */
import { ebpfRefusal } from '../../../host/ffi/bpf.ts';
import type { Link } from '../../../host/links.ts';
import { type BpfFilter, listBpfFilters, removeFilter } from '../../../host/tc.ts';
import { AnkaError } from '../../../lib/errors.ts';
import type { DesiredNic, DesiredState } from '../../engine.ts';
import { tapName } from '../names.ts';
import { withoutEbpf } from './needs.ts';
import { EbpfObject } from './object.ts';
import { attachFilters, findFilter, TAP_PROGRAMS } from './tap-filters.ts';

const PREFIX = 'anka-mac-';
const PREFERENCE = 1;
/** Operands in the source that stand for the addresses. */
const PLACEHOLDERS = { inside: 0x4544495341414b4en, outside: 0x4544495455414b4en } as const;

/** bpf/mac-translate.bpf.c for one pair of addresses. */
function translationObject(insideMac: number, outsideMac: number): EbpfObject {
  const object = new EbpfObject('mac-translate');
  for (const { section } of TAP_PROGRAMS)
    object.setOperand(section, PLACEHOLDERS.inside, operand(insideMac)).setOperand(section, PLACEHOLDERS.outside, operand(outsideMac));
  return object;
}

/** An address as the program reads it: the frame's first byte is the lowest of the number. */
function operand(mac: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeUIntBE(mac, 0, 6);
  return bytes;
}

const hex = (mac: number): string => mac.toString(16).padStart(12, '0');

export class MacTranslations {
  #warn: (o: object, message: string) => void;
  /** This kernel refused eBPF, so neighbour discovery is not checked by it. */
  #checksRefused = false;
  /** Why a check could not be attached the last time, though eBPF is available: logged once. */
  #checkFailed = '';
  /**
   * Filters that had an unknown tag right after we attached them, as `NAME TAG`: a later kernel may use another digest.
   */
  #unknownTags = new Set<string>();

  constructor(warn: (o: object, message: string) => void) {
    this.#warn = warn;
  }

  /**
   * Attaches and removes the filters of all NICs that have a tap. Returns the NICs (by id) that must stay detached, and
   * why.
   */
  async apply(desired: DesiredState, links: readonly Link[]): Promise<Map<string, string>> {
    const present = new Set(links.map((l) => l.name));
    const nics = desired.nics.filter((n) => present.has(tapName(n.id)));
    const detached = new Map<string, string>();
    let found: Map<string, BpfFilter[]>;
    try {
      found = await listBpfFilters(nics.map((n) => tapName(n.id)));
    } catch (cause) {
      this.#warn({ error: (cause as Error).message }, 'the translations of MAC addresses cannot be checked');
      const why = `the translation of its MAC address cannot be checked, so it is not attached: ${(cause as Error).message}`;
      return new Map(nics.filter(isTranslated).map((n) => [n.id, why]));
    }
    for (const nic of nics) {
      const device = tapName(nic.id);
      const filters = found.get(device) ?? [];
      const checked = (nic.type === 'shared' || nic.type === 'host') && !this.#checksRefused;
      try {
        if (isTranslated(nic) || checked) await this.#ensure(nic, filters);
        else for (const f of filters) if (f.name.startsWith(PREFIX)) await removeFilter(device, f.direction, f.preference);
      } catch (cause) {
        const why = this.#failed(nic, (cause as Error).message);
        if (why !== null) detached.set(nic.id, why);
      }
    }
    return detached;
  }

  /** Why a NIC must stay detached after its filters could not be attached; null when it may do without. */
  #failed(nic: DesiredNic, why: string): string | null {
    const refusal = ebpfRefusal();
    if (isTranslated(nic)) return refusal === null ? `its MAC address cannot be translated, so it is not attached: ${why}` : withoutEbpf(nic, refusal);
    // a passing failure, such as an interface that was removed meanwhile, is retried at the next check
    this.#checksRefused = refusal !== null;
    if (why !== this.#checkFailed)
      this.#warn({ device: tapName(nic.id), error: why }, 'eBPF is not available at tc: neighbour discovery of guests is checked by the Ethernet address only');
    this.#checkFailed = why;
    return null;
  }

  async #ensure(nic: DesiredNic, found: readonly BpfFilter[]): Promise<void> {
    const device = tapName(nic.id);
    const object = translationObject(nic.insideMac, nic.outsideMac);
    const wanted = { device, preference: PREFERENCE, object, fileName: `${PREFIX}${hex(nic.insideMac)}-${hex(nic.outsideMac)}.o` };
    const missing = TAP_PROGRAMS.filter((p) => {
      const filter = findFilter(wanted, p, found);
      return filter === undefined || !(object.tags(p.section).includes(filter.tag) || this.#unknownTags.has(`${filter.name} ${filter.tag}`));
    });
    if (missing.length === 0) return;
    await attachFilters(wanted, missing);
    const now = (await listBpfFilters([device])).get(device) ?? [];
    for (const p of missing) {
      const filter = findFilter(wanted, p, now);
      if (filter === undefined) throw new AnkaError('network', `the program ${p.section} is not at ${device}, though it was attached`);
      if (!object.tags(p.section).includes(filter.tag)) this.#unknownTags.add(`${filter.name} ${filter.tag}`);
    }
  }
}

const isTranslated = (nic: DesiredNic): boolean => nic.insideMac !== nic.outsideMac;
