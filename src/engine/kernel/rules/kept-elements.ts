/**
 * What new rules take over from the old ones: counted drops, which IPv4 addresses guests used in ARP (B50), and which
 * NIC holds which IPv6 address (B91). Each table is replaced as a whole, so what packets have written into its sets
 * would be lost.
 *
 * Theory of operation: the sets are read just before the transaction, and the same transaction adds their elements to
 * the new tables. So a held address is free at no moment. Elements of NICs that were removed, or are in another domain
 * now, are left out: an address becomes free when its NIC is detached.
 *
 * Limits: what packets write between the read and the transaction (about 20 ms) is lost. That is a count, or a new
 * address, which the next ARP or IPv6 packet takes again; the engine asks for the source of an IPv4 packet (`unheard`).
 * Of a NIC that holds more than twice its burst, the rest is dropped.
 */
import { ETHERNET, readSet, readSets, type SetElement } from '../../../host/netlink/sets.ts';
import { parseIpv4, parseMac } from '../../../wire/address.ts';
import type { DesiredNic } from '../../engine.ts';
import { FILTER_TABLE, FLOW_TABLE, TABLES, tapName } from '../names.ts';
import { HEARD, HEARD_SECONDS } from './bridge-table.ts';
import { dropSetName } from './drop-reasons.ts';
import { HOLD_SECONDS } from './ipv6-guard.ts';
import { domainOf } from './rule-input.ts';

/** IPv6 addresses kept for one NIC. */
const MOST_HELD = 64;
const OWN = 'own6_';
const DROP = 'drop_';
const REFUSED = dropSetName('connection_limit');

/** Drops of this family's table are counted by interface, those of the others by MAC address. */
const byInterface = (family: string): boolean => family === 'bridge' || family === 'netdev';

/** Drops by reason and NIC (its interface on the host), summed over all tables. */
export function readDrops(nics: readonly DesiredNic[]): Map<string, Map<string, number>> {
  const tapOfMac = new Map(nics.map((n) => [n.outsideMac, tapName(n.id)]));
  const drops = new Map<string, Map<string, number>>();
  const add = (family: string, name: string, elements: readonly SetElement[]): void => {
    const counts = drops.get(name.slice(DROP.length)) ?? new Map<string, number>();
    drops.set(name.slice(DROP.length), counts);
    for (const { parts, packets } of elements) {
      const key = parts[0] ?? '';
      const tap = byInterface(family) ? key : tapOfMac.get(parseMac(key) ?? -1);
      if (tap !== undefined) counts.set(tap, (counts.get(tap) ?? 0) + (packets ?? 0));
    }
  };
  for (const [family, table] of [...TABLES, FILTER_TABLE]) {
    for (const [name, elements] of readSets(family, table, (name) => name.startsWith(DROP))) add(family, name, elements);
  }
  add(FLOW_TABLE[0], REFUSED, readRefused());
  return drops;
}

/** How many connections of which MAC address were refused. The rest of that table's sets may be large. */
export function readRefused(): SetElement[] {
  return readSet(...FLOW_TABLE, REFUSED, ETHERNET);
}

/** nft commands that add the elements to those sets that `rules` defines. `keepsHeard`: decides for set `heard`. */
export function keptElements(nics: readonly DesiredNic[], rules: string, keepsHeard: (tap: string, ip: number) => boolean): string {
  const attached = nics.filter((n) => n.type !== 'disconnected');
  const lines: string[] = [];
  const add = (family: string, set: string, elements: readonly string[]): void => {
    if (elements.length > 0 && rules.includes(`set ${set} `)) lines.push(`add element ${family} anka ${set} { ${elements.join(', ')} }`);
  };
  const attachedTaps = new Set(attached.filter((n) => n.type !== 'bridge').map((n) => tapName(n.id)));
  const keys = new Set(nics.flatMap((n) => [tapName(n.id), n.outsideMac]));
  for (const [family, table] of TABLES) {
    for (const [name, elements] of readSets(family, table)) {
      if (name.startsWith(DROP)) {
        const known = elements.filter((e) => keys.has(byInterface(family) ? (e.parts[0] ?? '') : (parseMac(e.parts[0] ?? '') ?? -1)));
        add(
          family,
          name,
          known.map((e) => `${byInterface(family) ? `"${e.parts[0]}"` : e.parts[0]} counter packets ${e.packets ?? 0} bytes 0`),
        );
      } else if (name === HEARD) {
        const used = elements.filter(({ parts: [tap = '', ip = ''] }) => attachedTaps.has(tap) && keepsHeard(tap, parseIpv4(ip) ?? 0));
        add(
          family,
          name,
          used.filter((e) => (e.expires ?? 0) > 0).map((e) => `"${e.parts[0]}" . ${e.parts[1]} timeout ${HEARD_SECONDS}s expires ${e.expires}s`),
        );
      } else if (name.startsWith(OWN)) {
        const domain = name.slice(OWN.length);
        const held = attached.filter((n) => domainOf(n) === domain).flatMap((n) => heldBy(tapName(n.id), elements));
        add(
          family,
          name,
          held.map((e) => `"${e.parts[0]}" . ${e.parts[1]} ${remaining(e)}`),
        );
        add(
          family,
          `held6_${domain}`,
          held.map((e) => `${e.parts[1]} ${remaining(e)}`),
        );
      }
    }
  }
  return lines.join('\n');
}

/** nft command that removes the refusals of NICs that were removed; empty if there are none. */
export function forgottenElements(nics: readonly DesiredNic[]): string {
  const macs = new Set(nics.map((n) => n.outsideMac));
  const old = readRefused().flatMap(({ parts: [mac = ''] }) => (macs.has(parseMac(mac) ?? -1) ? [] : [mac]));
  return old.length === 0 ? '' : `delete element ${FLOW_TABLE.join(' ')} ${REFUSED} { ${old.join(', ')} }`;
}

/** The most recently used addresses of a NIC. */
function heldBy(tap: string, elements: readonly SetElement[]): SetElement[] {
  return elements
    .filter((e) => e.parts[0] === tap && (e.expires ?? 0) > 0)
    .sort((a, b) => (b.expires ?? 0) - (a.expires ?? 0))
    .slice(0, MOST_HELD);
}

const remaining = (e: SetElement): string => `timeout ${HOLD_SECONDS}s expires ${e.expires}s`;
