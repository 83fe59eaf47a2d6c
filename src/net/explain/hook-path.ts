/**
 * The hooks of netfilter that a packet passes on the kernel engine's host, and what it is at each of them: anka's own
 * tables rewrite ports and addresses on the way.
 *
 * Limits: hooks of families bridge and arp, and egress, are not among them. Frames between VMs pass none of these.
 */

/** Those that an IPv4 packet of a guest, or for one, may pass. */
export const HOOKS = ['ingress', 'prerouting', 'input', 'forward', 'output', 'postrouting'] as const;
export type Hook = (typeof HOOKS)[number];

/** A packet at a hook of netfilter; addresses in host order. */
export interface HookedPacket {
  /** Empty at the output hook. */
  iif: string;
  /** Empty before the packet is routed, and at the input hook. */
  oif: string;
  source: number;
  destination: number;
  /** tcp, udp, icmp, or another word for any other. */
  protocol: string;
  port: number | null;
  /** Invalid: before connection tracking, whatever the packet is. */
  state: 'new' | 'established' | 'invalid';
}

/**
 * What a packet is between two priorities of a hook, both included: the order of chains of equal priority is that of
 * their creation, so at the priority of a rewrite a packet may be either.
 */
export interface HookStage {
  hook: Hook;
  from: number;
  to: number;
  packet: HookedPacket;
}

/** Priorities (linux/netfilter_ipv4.h). */
const RAW = -300;
const CONNTRACK = -200;
const DSTNAT = -100;
const SRCNAT = 100;
const FIRST = Number.NEGATIVE_INFINITY;
const LAST = Number.POSITIVE_INFINITY;

const stage = (hook: Hook, packet: HookedPacket, from = FIRST, to = LAST): HookStage => ({ hook, from, to, packet });

const untracked = (packet: HookedPacket): HookedPacket => ({ ...packet, state: 'invalid' });

/** At ingress of each interface, and at prerouting until the packet is rewritten at `rewrite`. */
function entering(first: HookedPacket, then: HookedPacket, rewrite: number): HookStage[] {
  const [before, after] = [
    { ...first, oif: '' },
    { ...then, oif: '' },
  ];
  const tracked = rewrite > CONNTRACK ? [stage('prerouting', before, CONNTRACK, rewrite)] : [stage('prerouting', untracked(after), rewrite, CONNTRACK)];
  return [
    stage('ingress', untracked(before)),
    stage('prerouting', untracked(before), FIRST, Math.min(rewrite, CONNTRACK)),
    ...tracked,
    stage('prerouting', after, Math.max(rewrite, CONNTRACK), LAST),
  ];
}

/** `port`: the one to which anka redirects a guest's request; `by`: DHCP before connection tracking, DNS with NAT. */
export interface Redirect {
  port: number;
  by: 'raw' | 'nat';
}

/** From a guest to the host. */
export function towardsHost(packet: HookedPacket, redirect: Redirect | null): HookStage[] {
  const received = redirect === null ? packet : { ...packet, port: redirect.port };
  return [...entering(packet, received, redirect?.by === 'raw' ? RAW : DSTNAT), stage('input', { ...received, oif: '' })];
}

/** From a guest to outside, by NAT. `address`: the source that it gets; null: not known. */
export function towardsOutside(packet: HookedPacket, address: number | null): HookStage[] {
  const translated = address === null ? [] : [stage('postrouting', { ...packet, source: address }, SRCNAT, LAST)];
  return [...entering(packet, packet, DSTNAT), stage('forward', packet), stage('postrouting', packet, FIRST, SRCNAT), ...translated];
}

/** From outside to a guest, by NAT. `first`: what was sent; null: not known, and nothing is known before NAT. */
export function fromOutsideIn(first: { destination: number; port: number | null } | null, packet: HookedPacket): HookStage[] {
  const inside = entering({ ...packet, ...first }, packet, DSTNAT);
  const known = first === null ? inside.filter((s) => s.from >= DSTNAT) : inside;
  return [...known, stage('forward', packet), stage('postrouting', packet)];
}

/** From the host itself to a guest. `packet.iif` is empty. */
export function fromHostOut(packet: HookedPacket): HookStage[] {
  return [stage('output', untracked(packet), FIRST, CONNTRACK), stage('output', packet, CONNTRACK, LAST), stage('postrouting', packet)];
}
