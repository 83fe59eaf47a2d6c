/**
 * What a new table of filters takes over from the old one: counted drops, and the flows that the rules of now would let
 * begin. Without them, answers of open connections would not pass until their other end sends.
 *
 * Theory of operation: as in kept-elements.ts, the sets are read just before the transaction that replaces the table.
 * Flows of a card whose rules are the same are kept as they are.
 *
 * Limits: the most recent 4,096 flows of each set. What packets add between the read and the transaction is lost.
 */
import { readSets, type SetElement } from '../../../host/netlink/sets.ts';
import { FLOW_SECONDS } from '../../../net/filter/filter-flows.ts';
import type { FilterRule } from '../../../net/filter/filter-rule.ts';
import { type FilterNetwork, matchRule } from '../../../net/filter/match-rule.ts';
import { IpProtocol } from '../../../wire/ipv4.ts';
import { FILTER_TABLE } from '../names.ts';
import { CLOSING, FLOW_SETS } from './filter-table.ts';

const MOST = 4096;
/** Protocol, peer and both ports, padded to four bytes each. */
const KEY_BYTES = 16;
const DROP = 'drop_';

/** A card whose flows are kept. */
export interface KeptCard {
  tap: string;
  rules: readonly FilterRule[];
  /** Its rules are those of the old table. */
  same: boolean;
  addresses: readonly number[];
  network: FilterNetwork;
}

interface KeptFlow {
  protocol: number;
  peer: number;
  ownPort: number;
  peerPort: number;
}

/** nft commands that add what is kept to the new table. `taps`: those that exist. */
export function keptFlows(cards: readonly KeptCard[], taps: ReadonlySet<string>): string {
  const lines: string[] = [];
  const byTap = new Map(cards.map((c) => [c.tap, c]));
  const add = (set: string, elements: readonly string[]): void => {
    if (elements.length > 0) lines.push(`add element ${FILTER_TABLE.join(' ')} ${set} { ${elements.join(', ')} }`);
  };
  for (const [name, elements] of readSets(...FILTER_TABLE, (n) => /^(drop|by_vm|by_peer|closing)_/.test(n))) {
    if (name.startsWith(DROP)) {
      const known = elements.filter((e) => taps.has(e.parts[0] ?? ''));
      add(
        name,
        known.map((e) => `"${e.parts[0]}" counter packets ${e.packets ?? 0} bytes 0`),
      );
      continue;
    }
    const prefix = [FLOW_SETS.out, FLOW_SETS.in, CLOSING].find((p) => name.startsWith(p)) ?? '';
    const card = byTap.get(name.slice(prefix.length));
    if (!card || (prefix === CLOSING && !card.same)) continue;
    add(
      name,
      recent(elements).flatMap((e) => keptElement(e, card, prefix)),
    );
  }
  return lines.join('\n');
}

function recent(elements: readonly SetElement[]): SetElement[] {
  const live = elements.filter((e) => (e.expires ?? 0) > 0 && e.key.length === KEY_BYTES);
  return live.length <= MOST ? live : live.sort((a, b) => (b.expires ?? 0) - (a.expires ?? 0)).slice(0, MOST);
}

function keptElement(e: SetElement, card: KeptCard, prefix: string): string[] {
  const f = { protocol: e.key.readUInt8(0), peer: e.key.readUInt32BE(4), ownPort: e.key.readUInt16BE(8), peerPort: e.key.readUInt16BE(12) };
  if (!card.same && !mayBegin(f, card, prefix === FLOW_SETS.out)) return [];
  const seconds = Math.max(timeOf(f.protocol), e.expires ?? 0);
  return [`0x${hex(f.protocol, 2)} . 0x${hex(f.peer, 8)} . 0x${hex(f.ownPort, 4)} . 0x${hex(f.peerPort, 4)} timeout ${seconds}s expires ${e.expires}s`];
}

/** Whether the rules of now let one of the card's addresses have this flow. */
function mayBegin(f: KeptFlow, { rules, addresses, network }: KeptCard, outbound: boolean): boolean {
  const hasPorts = f.protocol !== IpProtocol.icmp;
  return addresses.some((own) => {
    const [source, destination] = outbound ? [own, f.peer] : [f.peer, own];
    const [sourcePort, destinationPort] = !hasPorts ? [-1, -1] : outbound ? [f.ownPort, f.peerPort] : [f.peerPort, f.ownPort];
    return matchRule(rules, { outbound, protocol: f.protocol, source, destination, sourcePort, destinationPort }, network)?.action !== 'block';
  });
}

const timeOf = (protocol: number): number =>
  protocol === IpProtocol.tcp ? FLOW_SECONDS.tcp : protocol === IpProtocol.udp ? FLOW_SECONDS.udp : FLOW_SECONDS.echo;

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, '0');
