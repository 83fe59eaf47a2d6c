/**
 * `anka doctor` on the host's routing, policy routing included (ip-rule(8)): whether guests' packets leave the host,
 * and whether answers find back (B93).
 *
 * Theory of operation: the kernel is asked how it routes packets as guests send and get them. On the kernel engine a
 * guest's packet enters by its network's bridge; on the user engine the network's process sends it. An address of
 * TEST-NET-3 (RFC 5737) stands for the outside: only a default route leads there.
 *
 * Limits: packets have no mark. That a route leads to a machine which forwards is not known.
 */
import type { RouteResult, Routing } from '../../host/routing.ts';
import { type IpRule, ruleText } from '../../host/routing-rules.ts';
import { formatIpv4, formatSubnet, gatewayOf, parseIpv4 } from '../../wire/address.ts';
import type { DesiredNetwork, DoctorFinding } from '../engine.ts';

const OUTSIDE = parseIpv4('203.0.113.1') as number;
const MAIN_PRIORITY = 32_766;

/** A network of ours with a bridge. */
export interface RoutedNetwork {
  network: DesiredNetwork;
  bridge: string;
  /** Addresses of its guests. */
  guests: readonly number[];
  /** The interface by which what they send to outside leaves; null: it goes nowhere. */
  uplink: string | null;
}

/** A network's routing as the kernel says. */
export function routedNetwork(routing: Routing, network: DesiredNetwork, bridge: string, guests: readonly number[]): RoutedNetwork {
  const from = guests[0] ?? gatewayOf(network.subnet) + 1;
  return { network, bridge, guests, uplink: routing.lookUp({ to: OUTSIDE, from, iif: bridge }).dev };
}

const WORKS: DoctorFinding = { id: 'routing', level: 'ok', message: "this host's rules and routes lead guests' packets out and back", remedy: '' };

const VERBS = {
  none: 'has no route for',
  unreachable: 'makes unreachable',
  prohibited: 'prohibits',
  blackhole: 'drops',
  source: 'drops (rp_filter)',
} as const;

/** What happens to packets, as a sentence without its object. */
function fate({ dev, failure, decidedBy }: RouteResult): string {
  const by = decidedBy === '' ? 'this host' : decidedBy;
  return failure === null ? `${by} sends out of ${dev ?? 'another interface'}` : `${by} ${VERBS[failure]}`;
}

/** On the kernel engine. */
export function guestRouting(routing: Routing, networks: readonly RoutedNetwork[]): DoctorFinding[] {
  const found = networks.flatMap((n) => {
    const inward = strayed(routing, n);
    if (n.network.name === 'host') return inward;
    // answers that lead elsewhere are the cause of what the reverse path filter drops
    return inward.length === 0 ? outward(routing, n) : [...inward, ...outward(routing, n).filter((f) => f.id === 'routing.outside')];
  });
  return found.length > 0 ? found : [WORKS];
}

/** What the host sends or forwards to guests goes elsewhere. */
function strayed(routing: Routing, { network, bridge, guests }: RoutedNetwork): DoctorFinding[] {
  const gateway = gatewayOf(network.subnet);
  for (const to of new Set([gateway + 1, ...guests])) {
    const way = routing.lookUp({ to, from: gateway });
    if (way.dev === bridge) continue;
    // a longer prefix in the main table: a subnet clash, which is a finding of its own
    const rule = way.decision?.rule;
    if (rule?.priority === MAIN_PRIORITY && way.failure === null) continue;
    return [
      {
        id: 'routing.guests',
        level: 'error',
        message: `${fate(way)} what is for guests of the ${network.name} network (${formatIpv4(to)}): they get no answers`,
        remedy: remedyFor(way, `to ${formatSubnet(network.subnet)}`),
      },
    ];
  }
  return [];
}

/** What guests send to outside, or the answers, goes nowhere. */
function outward(routing: Routing, { network, bridge, guests }: RoutedNetwork): DoctorFinding[] {
  const from = guests[0] ?? gatewayOf(network.subnet) + 1;
  const way = routing.lookUp({ to: OUTSIDE, from, iif: bridge });
  const what = `what guests of the ${network.name} network send to outside`;
  if (isForwardingOff(way)) return [];
  if (way.failure === 'none') return [noRoute()];
  if (way.failure === 'source') return [filtered(bridge, what)];
  if (way.failure !== null)
    return [{ id: 'routing.outside', level: 'error', message: `${fate(way)} ${what}`, remedy: remedyFor(way, `from ${formatSubnet(network.subnet)}`) }];
  if (way.dev === null) return [];
  const back = routing.lookUp({ to: from, from: OUTSIDE, iif: way.dev });
  if (back.failure === 'source') return [filtered(way.dev, `answers to ${what.replace('send', 'sent')}`)];
  if (back.dev === bridge || isForwardingOff(back)) return [];
  return [
    {
      id: 'routing.guests',
      level: 'error',
      message: `${fate(back)} answers to ${what.replace('send', 'sent')}`,
      remedy: remedyFor(back, `to ${formatSubnet(network.subnet)}`),
    },
  ];
}

/**
 * The kernel answers that a packet which it may not forward is unreachable, whatever routes say. Forwarding is a
 * finding of its own.
 */
function isForwardingOff({ failure, decision }: RouteResult): boolean {
  return failure === 'unreachable' && decision?.route !== undefined && decision.route.type !== 'unreachable';
}

/** On the user engine: `uid` is the user id of the network's process. */
export function ownRouting(routing: Routing, uid: number): DoctorFinding[] {
  const way = routing.lookUp({ to: OUTSIDE, uid });
  if (way.failure === null) return [WORKS];
  if (way.failure === 'none') return [noRoute()];
  const { decision } = way;
  const undo = decision?.route === undefined ? deletionOf(decision?.rule) : routeDeletion(way);
  return [{ id: 'routing.outside', level: 'error', message: `${fate(way)} what guests send to outside`, remedy: undo }];
}

function noRoute(): DoctorFinding {
  return {
    id: 'routing.none',
    level: 'warning',
    message: 'this host has no route to outside: guests reach nothing beyond it',
    remedy: "connect it, or run 'ip route add default via ROUTER' with the address of its router",
  };
}

/** The reverse path filter of an interface (RFC 3704). */
function filtered(dev: string, what: string): DoctorFinding {
  return {
    id: 'routing.filter',
    level: 'error',
    message: `the reverse path filter of ${dev} drops ${what}: the way back leads by another interface`,
    remedy: `run 'sysctl -w net.ipv4.conf.${dev}.rp_filter=2'`,
  };
}

/** `selector`: what of our network the main table should decide. */
function remedyFor(way: RouteResult, selector: string): string {
  const rule = way.decision?.rule;
  if (rule === undefined) return "correct this host's rules and routes ('ip rule' and 'ip route show table all' list them)";
  if (rule.priority >= MAIN_PRIORITY) return routeDeletion(way);
  if (rule.priority === 0) return deletionOf(rule);
  return `run 'ip rule add ${selector} priority ${rule.priority - 1} lookup main'`;
}

function deletionOf(rule: IpRule | undefined): string {
  return rule === undefined ? "correct this host's rules ('ip rule' lists them)" : `run 'ip rule del priority ${rule.priority} ${ruleText(rule)}'`;
}

function routeDeletion({ decision }: RouteResult): string {
  const route = decision?.route;
  if (route === undefined) return "correct this host's routes ('ip route show table all' lists them)";
  return `run 'ip route del ${[...(route.type ? [route.type] : []), route.dst, 'table', route.table ?? 'main'].join(' ')}'`;
}
