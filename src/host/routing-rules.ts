/**
 * The host's policy routing (ip-rule(8)): which rule and which route decide about an IPv4 packet.
 *
 * Theory of operation: rules are tried in the order of their priorities. One that matches the packet decides if its
 * table has a route, or if it is a verdict itself. The kernel decides about packets (netlink/routes.ts); what is found
 * here only names the rule and the route.
 *
 * Limits: packets have no mark, type of service or source port.
 */
import { parseIpv4, type SubnetLike, subnetContains } from '../wire/address.ts';
import type { RoutedPacket } from './netlink/routes.ts';

/** A rule as `ip -j rule` prints it. */
export interface IpRule {
  priority: number;
  not?: null;
  src?: string;
  srclen?: number;
  dst?: string;
  dstlen?: number;
  iif?: string;
  oif?: string;
  fwmark?: string;
  fwmask?: string;
  tos?: string;
  uid_start?: number;
  uid_end?: number;
  ipproto?: string;
  sport?: number;
  dport?: number;
  table?: string;
  suppress_prefixlen?: number;
  goto?: number;
  action?: string;
}

/** A route as `ip -j route show table all` prints it. */
export interface IpRoute {
  type?: string;
  dst: string;
  dev?: string;
  table?: string;
}

/** What decides about a packet. */
export interface RoutingDecision {
  rule: IpRule;
  /** Absent where the rule itself is the verdict. */
  route?: IpRoute;
}

/** Priority and table of the rule by which the main table is used on every host. */
const MAIN = { priority: 32_766, table: 'main' };
const LOOPBACK_INTERFACE = 'lo';

const isMain = (rule: IpRule): boolean => rule.priority === MAIN.priority && rule.table === MAIN.table;

/** A rule in the words of ip-rule(8), without its priority. */
export function ruleText(rule: IpRule): string {
  const words = [...(rule.not === null ? ['not'] : []), 'from', prefixText(rule.src, rule.srclen)];
  if (rule.dst !== undefined) words.push('to', prefixText(rule.dst, rule.dstlen));
  for (const key of ['tos', 'fwmark', 'iif', 'oif', 'ipproto', 'sport', 'dport'] as const) if (rule[key] !== undefined) words.push(key, String(rule[key]));
  if (rule.uid_start !== undefined) words.push('uidrange', `${rule.uid_start}-${rule.uid_end}`);
  if (rule.table !== undefined) words.push('lookup', rule.table);
  else words.push(rule.action ?? 'goto', ...(rule.goto === undefined ? [] : [String(rule.goto)]));
  return words.join(' ');
}

const prefixText = (address = 'all', length?: number): string => (length === undefined ? address : `${address}/${length}`);

/** What decides, for a user; empty where it is an ordinary route of the main table. */
export function decisionText({ rule, route }: RoutingDecision): string {
  const type = route?.type === undefined || route.type === 'local' ? '' : `route '${route.type} ${route.dst}'`;
  if (isMain(rule)) return type;
  const ruled = `rule ${rule.priority} (${ruleText(rule)})`;
  return type === '' ? ruled : `${ruled}, ${type}`;
}

/** The first rule that decides; null if none does. */
export function decide(rules: readonly IpRule[], routes: readonly IpRoute[], packet: RoutedPacket): RoutingDecision | null {
  let from = 0;
  for (const rule of rules) {
    if (rule.priority < from || !matches(rule, packet)) continue;
    if (rule.goto !== undefined) {
      from = Math.max(rule.goto, rule.priority);
      continue;
    }
    if (rule.table === undefined) {
      if (rule.action === undefined || rule.action === 'nop') continue;
      return { rule };
    }
    const route = bestRoute(routes, rule.table, packet.to);
    if (!route || route.type === 'throw' || subnetOf(route.dst).prefix <= (rule.suppress_prefixlen ?? -1)) continue;
    return { rule, route };
  }
  return null;
}

function matches(rule: IpRule, { to, from = 0, iif = LOOPBACK_INTERFACE, uid = 0, protocol, port }: RoutedPacket): boolean {
  const matched =
    isIn(from, rule.src, rule.srclen) &&
    isIn(to, rule.dst, rule.dstlen) &&
    (rule.iif === undefined || rule.iif === iif) &&
    rule.oif === undefined &&
    rule.tos === undefined &&
    rule.sport === undefined &&
    Number(rule.fwmark ?? 0) === 0 &&
    (rule.uid_start === undefined || (uid >= rule.uid_start && uid <= (rule.uid_end ?? rule.uid_start))) &&
    (rule.ipproto === undefined || rule.ipproto === protocol) &&
    (rule.dport === undefined || rule.dport === port);
  return matched !== (rule.not === null);
}

function isIn(value: number, address?: string, length = 32): boolean {
  if (address === undefined || address === 'all') return true;
  const base = parseIpv4(address);
  return base !== null && subnetContains({ base, prefix: length }, value);
}

/** The longest prefix; of equal ones, the first. */
function bestRoute(routes: readonly IpRoute[], table: string, to: number): IpRoute | null {
  let best: IpRoute | null = null;
  for (const route of routes) {
    if ((route.table ?? MAIN.table) !== table) continue;
    const subnet = subnetOf(route.dst);
    if (subnetContains(subnet, to) && (best === null || subnet.prefix > subnetOf(best.dst).prefix)) best = route;
  }
  return best;
}

/** A destination as `ip` prints it. */
export function subnetOf(destination: string): SubnetLike {
  if (destination === 'default') return { base: 0, prefix: 0 };
  const [address, length] = destination.split('/') as [string, string?];
  const base = parseIpv4(address);
  return base === null ? { base: 0xffffffff, prefix: 32 } : { base, prefix: length === undefined ? 32 : Number(length) };
}
