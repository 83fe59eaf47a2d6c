/**
 * What has to change on the host's interfaces: pure, from desired and observed to `ip` commands. Removals come first.
 *
 * Where NICs of different MTUs share a network, its bridge gets the smallest MTU, so that what the host sends fits
 * every guest. Every tap gets the largest: a bridge silently drops what is too large for a port, while a guest with a
 * virtio NIC receives more than its own MTU. TCP between them works: each end announces its own MSS.
 */

import type { Link, Route } from '../../host/links.ts';
import { formatIpv4, gatewayOf } from '../../wire/address.ts';
import type { DesiredNetwork, DesiredNic, DesiredState } from '../engine.ts';
import type { Attachments } from './bridging/uplinks.ts';
import { BRIDGES, bridgeMac, GROUP, LABEL, OUR_NAME, tapName } from './names.ts';

/** `ip -batch` lines of one object. Each step runs separately, so one that fails does not stop the others. */
export interface LinkStep {
  object: string;
  lines: string[];
}

/** What the host has, and where bridge-type NICs go. */
export interface LinkContext {
  links: readonly Link[];
  /** IPv4 addresses by interface, as `a.b.c.d/len`. */
  addresses: ReadonlyMap<string, string[]>;
  /** Of the main table. */
  routes: readonly Route[];
  attachments: Attachments;
  /** NICs (ids) to keep out of their network. */
  detached: ReadonlySet<string>;
}

/**
 * Creates the taps that are missing, detached. Linux decides at creation whether a tap takes several queues, so one
 * that does not fit its card is created anew, unless a guest still uses it.
 */
export function planTaps(desired: DesiredState, links: readonly Link[]): LinkStep[] {
  const existing = new Map(links.map((l) => [l.name, l]));
  return desired.nics.flatMap((nic): LinkStep[] => {
    const name = tapName(nic.id);
    const link = existing.get(name);
    const several = nic.queues > 1;
    const unfit = link?.tun != null && link.tun.multiQueue !== several && !link.tun.isOpen;
    if (link && !unfit) return [];
    return [
      {
        object: `nic:${nic.id}`,
        lines: [
          ...(link ? [`link del dev ${name}`] : []),
          `tuntap add dev ${name} mode tap user ${nic.ownerUid} vnet_hdr${several ? ' multi_queue' : ''}`,
          `link set dev ${name} group ${GROUP} alias ${LABEL}nic=${nic.id}`,
        ],
      },
    ];
  });
}

const ETHERNET_MTU = 1500;
/** BR_STATE_FORWARDING */
const FORWARDING = 3;

/** MTUs of the NICs of a network; Ethernet's when it has none. */
function mtusOf(desired: DesiredState, network: string): { smallest: number; largest: number } {
  const all = desired.nics.filter((n) => n.type === network).map((n) => n.mtu);
  return all.length === 0 ? { smallest: ETHERNET_MTU, largest: ETHERNET_MTU } : { smallest: Math.min(...all), largest: Math.max(...all) };
}

/** The bridge that a NIC's tap belongs to; null for none. `detached`: NICs (ids) to keep out of their network. */
export function masterOf(nic: DesiredNic, attachments: Attachments, detached: ReadonlySet<string>): string | null {
  if (detached.has(nic.id) || nic.type === 'disconnected') return null;
  return nic.type === 'bridge' ? (attachments.get(nic.id)?.bridge ?? null) : BRIDGES[nic.type];
}

/** Deletes interfaces that no object needs, then creates and changes bridges, then taps that exist. */
export function planLinks(desired: DesiredState, context: LinkContext): LinkStep[] {
  return [
    ...planRemovals(desired, context),
    ...desired.networks.map((n) => planBridge(n, desired, context)),
    ...desired.nics.map((n) => planTap(n, desired, context)),
  ].filter((step) => step.lines.length > 0);
}

function planRemovals(desired: DesiredState, { links, attachments }: LinkContext): LinkStep[] {
  const wanted = new Set<string>([
    ...desired.networks.map((n) => BRIDGES[n.name] as string),
    ...desired.nics.map((n) => tapName(n.id)),
    ...[...attachments.values()].flatMap((a) => a.ownInterfaces),
  ]);
  return links.filter((l) => isOurs(l) && !wanted.has(l.name)).map((l) => ({ object: `link:${l.name}`, lines: [`link del dev ${l.name}`] }));
}

function planBridge(network: DesiredNetwork, desired: DesiredState, { links, addresses, routes }: LinkContext): LinkStep {
  const name = BRIDGES[network.name];
  const link = links.find((l) => l.name === name);
  const mac = bridgeMac(network.name);
  const lines: string[] = [];
  if (link && link.kind !== 'bridge') lines.push(`link del dev ${name}`);
  if (!link || link.kind !== 'bridge')
    lines.push(`link add name ${name} address ${mac} group ${GROUP} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`);
  else if (link.mac !== mac) lines.push(`link set dev ${name} address ${mac}`);
  const alias = `${LABEL}network=${network.name}`;
  if (link?.alias !== alias) lines.push(`link set dev ${name} alias ${alias}`);
  const { smallest } = mtusOf(desired, network.name);
  if (link?.mtu !== smallest && (link || smallest !== ETHERNET_MTU)) lines.push(`link set dev ${name} mtu ${smallest}`);
  const { base, prefix } = network.subnet;
  const gateway = formatIpv4(gatewayOf(network.subnet));
  const address = `${gateway}/${prefix}`;
  const present = addresses.get(name) ?? [];
  for (const a of present) if (a !== address) lines.push(`addr del ${a} dev ${name}`);
  if (!present.includes(address)) lines.push(`addr add ${address} brd + dev ${name}`);
  if (!link?.up) lines.push(`link set dev ${name} up`);
  // the kernel adds the route when the address is added, or the link set up, and never again; another program's route
  // to this subnet stays first (doctor reports it)
  else if (present.includes(address) && !routes.some((r) => r.dev === name && r.base === base && r.prefix === prefix))
    lines.push(`route append ${formatIpv4(base)}/${prefix} dev ${name} proto kernel scope link src ${gateway}`);
  return { object: `network:${network.name}`, lines };
}

function planTap(nic: DesiredNic, desired: DesiredState, { links, attachments, detached }: LinkContext): LinkStep {
  const object = `nic:${nic.id}`;
  const name = tapName(nic.id);
  const link = links.find((l) => l.name === name);
  if (!link) return { object, lines: [] }; // creating it failed
  const master = masterOf(nic, attachments, detached);
  const mtu = (nic.type === 'bridge' ? attachments.get(nic.id)?.mtu : undefined) ?? mtusOf(desired, nic.type).largest;
  const alias = `${LABEL}nic=${nic.id}`;
  const lines: string[] = [];
  if (link.alias !== alias) lines.push(`link set dev ${name} group ${GROUP} alias ${alias}`);
  if (link.mtu !== mtu) lines.push(`link set dev ${name} mtu ${mtu}`);
  if (link.master !== master) lines.push(master === null ? `link set dev ${name} nomaster` : `link set dev ${name} master ${master}`);
  if (!link.up) lines.push(`link set dev ${name} up`);
  // spanning tree was turned off, but the port still waits for its end
  const bridge = links.find((l) => l.name === master);
  if (link.master === master && bridge?.spanningTree?.on === false && (link.port?.state === 'listening' || link.port?.state === 'learning'))
    lines.push(`link set dev ${name} type bridge_slave state ${FORWARDING}`);
  return { object, lines };
}

/** An interface that anka created: by its label, or, after a crash before labelling, by its group and name. */
export function isOurs(link: Link): boolean {
  return link.alias.startsWith(LABEL) || (OUR_NAME.test(link.name) && (link.group === GROUP || link.kind === 'tun' || link.kind === 'bridge'));
}
