/**
 * What new rules take over from those that they replace: counted drops, and which card holds which IPv6 address (B91).
 * The tables are replaced as a whole, so what packets have written into their sets would be lost with them.
 *
 * Theory of operation: the sets are read just before the transaction, and their elements are put into the new tables by
 * the same transaction: there is no moment in which an address that was held is free. Elements of cards that are no
 * more, or are in another domain now, are left behind: so an address is free when its card is unplugged. Limits: what
 * packets write between the reading and the transaction (some 20 ms) is lost: a count, or an address that was taken
 * just then and is taken again by the next packet. Of a card that holds more than twice what it may take at once, the
 * rest is dropped.
 */
import { readSets, type SetElement } from '../../../host/nft.ts';
import { parseMac } from '../../../wire/address.ts';
import type { DesiredNic } from '../../engine.ts';
import { TABLES, tapName } from '../names.ts';
import { HOLD_SECONDS } from './ipv6.ts';
import { domainOf } from './rule-input.ts';

const MOST_HELD = 64;
const OWN = 'own6_';
const DROP = 'drop_';

/** Whether drops of this family's table are counted by interface; else by MAC address. */
const byInterface = (family: string): boolean => family === 'bridge' || family === 'netdev';

/** Drops by reason and card (its interface on the host), all tables together. */
export async function readDrops(nics: readonly DesiredNic[]): Promise<Map<string, Map<string, number>>> {
  const tapOfMac = new Map(nics.map((n) => [n.outsideMac, tapName(n.id)]));
  const drops = new Map<string, Map<string, number>>();
  for (const [family, table] of TABLES) {
    for (const [name, elements] of await readSets(family, table)) {
      if (!name.startsWith(DROP)) continue;
      const counts = drops.get(name.slice(DROP.length)) ?? new Map<string, number>();
      drops.set(name.slice(DROP.length), counts);
      for (const { parts, packets } of elements) {
        const key = parts[0] ?? '';
        const tap = byInterface(family) ? key : tapOfMac.get(parseMac(key) ?? -1);
        if (tap !== undefined) counts.set(tap, (counts.get(tap) ?? 0) + (packets ?? 0));
      }
    }
  }
  return drops;
}

/** Elements to add to new tables, as nft commands, for the sets that are in the text of these. */
export async function keptElements(nics: readonly DesiredNic[], rules: string): Promise<string> {
  const plugged = nics.filter((n) => n.type !== 'disconnected');
  const lines: string[] = [];
  const add = (family: string, set: string, elements: readonly string[]): void => {
    if (elements.length > 0 && rules.includes(`set ${set} `)) lines.push(`add element ${family} anka ${set} { ${elements.join(', ')} }`);
  };
  const keys = new Set(nics.flatMap((n) => [tapName(n.id), n.outsideMac]));
  for (const [family, table] of TABLES) {
    for (const [name, elements] of await readSets(family, table)) {
      if (name.startsWith(DROP)) {
        const known = elements.filter((e) => keys.has(byInterface(family) ? (e.parts[0] ?? '') : (parseMac(e.parts[0] ?? '') ?? -1)));
        add(
          family,
          name,
          known.map((e) => `${byInterface(family) ? `"${e.parts[0]}"` : e.parts[0]} counter packets ${e.packets ?? 0} bytes 0`),
        );
      } else if (name.startsWith(OWN)) {
        const domain = name.slice(OWN.length);
        const held = plugged.filter((n) => domainOf(n) === domain).flatMap((n) => heldBy(tapName(n.id), elements));
        add(
          family,
          name,
          held.map((e) => `"${e.parts[0]}" . ${e.parts[1]} ${rest(e)}`),
        );
        add(
          family,
          `held6_${domain}`,
          held.map((e) => `${e.parts[1]} ${rest(e)}`),
        );
      }
    }
  }
  return lines.join('\n');
}

/** What a card holds: the youngest first, not more than it may. */
function heldBy(tap: string, elements: readonly SetElement[]): SetElement[] {
  return elements
    .filter((e) => e.parts[0] === tap && (e.expires ?? 0) > 0)
    .sort((a, b) => (b.expires ?? 0) - (a.expires ?? 0))
    .slice(0, MOST_HELD);
}

const rest = (e: SetElement): string => `timeout ${HOLD_SECONDS}s expires ${e.expires}s`;
