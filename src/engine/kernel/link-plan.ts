/**
 * What has to change on the host's links: pure, from desired and observed to `ip` commands. Removals come first.
 *
 * Where cards of different MTUs meet, the bridge gets the smallest, so that what the host sends fits every guest, and
 * every tap the largest: a bridge drops in silence what is too large for a port, while a guest with a virtio card takes
 * what is larger than it would send itself. TCP between them needs no help: each end tells its own size.
 */

import type { Link } from '../../host/links.ts';
import { formatIpv4, gatewayOf } from '../../wire/address.ts';
import type { DesiredNic, DesiredState } from '../engine.ts';
import type { Attachments } from './bridging/uplinks.ts';
import { BRIDGES, bridgeMac, GROUP, LABEL, tapName } from './names.ts';

export interface LinkPlan {
  /** `ip -batch` lines of each object, run apart, so that one that fails does not stop the rest. */
  steps: { object: string; lines: string[] }[];
}

/** Taps that are not there yet, in no network: first they get what a card needs before it may be plugged in. */
export function planTaps(desired: DesiredState, links: readonly Link[]): LinkPlan['steps'] {
  const there = new Set(links.map((l) => l.name));
  return desired.nics
    .filter((nic) => !there.has(tapName(nic.id)))
    .map((nic) => ({
      object: `nic:${nic.id}`,
      lines: [
        `tuntap add dev ${tapName(nic.id)} mode tap user ${nic.ownerUid} vnet_hdr`,
        `link set dev ${tapName(nic.id)} group ${GROUP} alias ${LABEL}nic=${nic.id}`,
      ],
    }));
}

const ETHERNET_MTU = 1500;

/** Of the cards of a network; of none: Ethernet's. */
function mtusOf(desired: DesiredState, network: string): { smallest: number; largest: number } {
  const all = desired.nics.filter((n) => n.type === network).map((n) => n.mtu);
  return all.length === 0 ? { smallest: ETHERNET_MTU, largest: ETHERNET_MTU } : { smallest: Math.min(...all), largest: Math.max(...all) };
}

/**
 * The bridge that a card's tap belongs into; null for none. Cards in `unplugged` (ids) are kept out of their network.
 */
export function masterOf(nic: DesiredNic, attachments: Attachments, unplugged: ReadonlySet<string>): string | null {
  if (unplugged.has(nic.id) || nic.type === 'disconnected') return null;
  return nic.type === 'bridge' ? (attachments.get(nic.id)?.bridge ?? null) : BRIDGES[nic.type];
}

/** Compares and says what to do. Cards in `unplugged` (ids) are kept out of their network. */
export function planLinks(
  desired: DesiredState,
  links: readonly Link[],
  addresses: ReadonlyMap<string, string[]>,
  attachments: Attachments,
  unplugged: ReadonlySet<string>,
): LinkPlan {
  const steps: LinkPlan['steps'] = [];
  const byName = new Map(links.map((l) => [l.name, l]));
  const wanted = new Set<string>([
    ...desired.networks.map((n) => BRIDGES[n.name] as string),
    ...desired.nics.map((n) => tapName(n.id)),
    ...[...attachments.values()].flatMap((u) => u.ownInterfaces),
  ]);
  for (const l of links) if (isOurs(l) && !wanted.has(l.name)) steps.push({ object: `link:${l.name}`, lines: [`link del dev ${l.name}`] });
  for (const n of desired.networks) {
    const name = BRIDGES[n.name];
    const l = byName.get(name);
    const address = `${formatIpv4(gatewayOf(n.subnet))}/${n.subnet.prefix}`;
    const lines: string[] = [];
    if (l && l.kind !== 'bridge') lines.push(`link del dev ${name}`);
    if (!l || l.kind !== 'bridge')
      lines.push(`link add name ${name} address ${bridgeMac(n.name)} group ${GROUP} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`);
    else if (l.mac !== bridgeMac(n.name)) lines.push(`link set dev ${name} address ${bridgeMac(n.name)}`);
    if (l?.alias !== `${LABEL}network=${n.name}`) lines.push(`link set dev ${name} alias ${LABEL}network=${n.name}`);
    const { smallest } = mtusOf(desired, n.name);
    if (l?.mtu !== smallest && (l || smallest !== ETHERNET_MTU)) lines.push(`link set dev ${name} mtu ${smallest}`);
    const have = addresses.get(name) ?? [];
    for (const a of have) if (a !== address) lines.push(`addr del ${a} dev ${name}`);
    if (!have.includes(address)) lines.push(`addr add ${address} brd + dev ${name}`);
    if (!l?.up) lines.push(`link set dev ${name} up`);
    if (lines.length > 0) steps.push({ object: `network:${n.name}`, lines });
  }
  for (const nic of desired.nics) {
    const name = tapName(nic.id);
    const l = byName.get(name);
    if (!l) continue; // it could not be made
    const master = masterOf(nic, attachments, unplugged);
    const mtu = (nic.type === 'bridge' ? attachments.get(nic.id)?.mtu : undefined) ?? mtusOf(desired, nic.type).largest;
    const lines: string[] = [];
    if (l.alias !== `${LABEL}nic=${nic.id}`) lines.push(`link set dev ${name} group ${GROUP} alias ${LABEL}nic=${nic.id}`);
    if (l.mtu !== mtu) lines.push(`link set dev ${name} mtu ${mtu}`);
    if (l.master !== master) lines.push(master === null ? `link set dev ${name} nomaster` : `link set dev ${name} master ${master}`);
    if (!l.up) lines.push(`link set dev ${name} up`);
    if (lines.length > 0) steps.push({ object: `nic:${nic.id}`, lines });
  }
  return { steps };
}

/** An interface that we made: by its label, or, if a crash came between making and labelling, by its group and name. */
export function isOurs(link: Link): boolean {
  return (
    link.alias.startsWith(LABEL) ||
    (/^anka([0-9a-f]{8}|-(br|pl|pt)[0-9a-f]{8}|-shared|-host)$/.test(link.name) &&
      (link.group === String(GROUP) || link.kind === 'tun' || link.kind === 'bridge'))
  );
}
