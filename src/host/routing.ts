/**
 * How this host routes IPv4 packets, as a snapshot for `anka doctor` and `anka explain`.
 *
 * Theory of operation: the kernel is asked about each packet (netlink/routes.ts). The rules and routes that `ip` lists
 * serve to name what decided (routing-rules.ts). Where netlink is not available, the routes of the main table decide.
 */
import { readdirSync } from 'node:fs';
import { interfaceIndex } from './ethernet.ts';
import { run } from './exec.ts';
import { lookUpRoute, type RoutedPacket } from './netlink/routes.ts';
import { decide, decisionText, type IpRoute, type IpRule, type RoutingDecision } from './routing-rules.ts';

/** Why a packet is not routed. `source`: by its source, the reverse path filter (rp_filter) drops it. */
export type RouteFailure = 'none' | 'unreachable' | 'prohibited' | 'blackhole' | 'source';

export interface RouteResult {
  /** The interface that it leaves by; null where it goes nowhere. */
  dev: string | null;
  failure: RouteFailure | null;
  /** The host's address that it would send from; null when it is not known. */
  source: number | null;
  /** The rule and route that decide, in words; empty where it is an ordinary route of the main table. */
  decidedBy: string;
  /** The same as objects; null when they are not known. */
  decision: RoutingDecision | null;
}

const FAILURES: Record<number, RouteFailure> = { 101: 'none', 113: 'unreachable', 13: 'prohibited', 22: 'blackhole', 18: 'source' };

async function ipJson<T>(args: readonly string[]): Promise<T[]> {
  const text = await run('ip', ['-j', '-4', ...args], { retryOn: /Dump was interrupted/ });
  return text.trim() === '' ? [] : (JSON.parse(text) as T[]);
}

export class Routing {
  readonly #rules: readonly IpRule[];
  readonly #routes: readonly IpRoute[];
  /** Names by index. */
  readonly #interfaces: ReadonlyMap<number, string>;

  private constructor(rules: readonly IpRule[], routes: readonly IpRoute[]) {
    this.#rules = rules;
    this.#routes = routes;
    this.#interfaces = new Map(readdirSync('/sys/class/net').map((name) => [interfaceIndex(name) ?? 0, name]));
  }

  /** Throws where `ip` is not installed, or the system is not Linux. */
  static async read(): Promise<Routing> {
    return new Routing(await ipJson<IpRule>(['rule', 'show']), await ipJson<IpRoute>(['route', 'show', 'table', 'all']));
  }

  /** Names of this host's interfaces. */
  get interfaces(): readonly string[] {
    return [...this.#interfaces.values()];
  }

  /** Routes of all tables. */
  get routes(): readonly IpRoute[] {
    return this.#routes;
  }

  lookUp(packet: RoutedPacket): RouteResult {
    const decision = decide(this.#rules, this.#routes, packet);
    const decidedBy = decision ? decisionText(decision) : '';
    const answer = lookUpRoute(packet);
    if ('errno' in answer) return { dev: null, failure: FAILURES[answer.errno] ?? 'unreachable', source: null, decidedBy, decision };
    return { dev: this.#interfaces.get(answer.interface) ?? null, failure: null, source: answer.source, decidedBy, decision };
  }
}
