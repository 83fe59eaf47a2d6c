/**
 * What single rules of other firewalls do with a packet, for `anka doctor` and `anka explain`.
 *
 * Theory of operation: rules as `iptables -S` and `nft -j` print them are brought to one form, and followed from a base
 * chain through its jumps, as the kernel does. A rule with a condition that is not understood is skipped, so what
 * is found is a drop for sure, and a drop may be missed. A skipped rule that may spare the packet is a doubt: the
 * caller decides what it means.
 *
 * Limits: the conditions understood are interfaces, IPv4 addresses, protocols, destination ports and connection states.
 * Sets by name, marks, limits and modules of iptables are not.
 */
import type { HookedPacket } from '../../../net/explain/hook-path.ts';
import { parseIpv4, subnetContains } from '../../../wire/address.ts';

type Condition = (p: HookedPacket) => boolean;
/** `queue`: another program decides. `unknown`: a map of verdicts. */
type Verdict = 'accept' | 'drop' | 'queue' | 'return' | 'jump' | 'goto' | 'continue' | 'unknown';

export interface FilterRule {
  /** As its program prints it. */
  text: string;
  /** Those that are understood. */
  conditions: Condition[];
  /** Those of them that are about interfaces. */
  interfaces: Condition[];
  /** All conditions are. */
  understood: boolean;
  verdict: Verdict;
  /** Of jump and goto. */
  target: string;
}

export interface FilterChain {
  rules: FilterRule[];
  /** Of a base chain. */
  policy: 'accept' | 'drop';
}

/** By name. */
export type FilterChains = ReadonlyMap<string, FilterChain>;

const MAX_DEPTH = 16;

const SPARES: ReadonlySet<Verdict> = new Set(['accept', 'queue', 'return', 'jump', 'goto', 'unknown']);

/** A walk through chains. `doubts`: gets the skipped rules that may spare the packet. */
interface Walk {
  doubts?: FilterRule[];
  depth?: number;
}

/** `accepted`, or the rule that drops the packet; null: the chain's end was reached, and its policy decides. */
export function follow(chains: FilterChains, name: string, packet: HookedPacket, { doubts = [], depth = 0 }: Walk = {}): FilterRule | 'accepted' | null {
  if (depth > MAX_DEPTH) return 'accepted';
  for (const rule of chains.get(name)?.rules ?? []) {
    if (!rule.conditions.every((holds) => holds(packet))) continue;
    if (SPARES.has(rule.verdict) && (!rule.understood || rule.verdict === 'queue' || rule.verdict === 'unknown')) doubts.push(rule);
    if (!rule.understood || rule.verdict === 'queue' || rule.verdict === 'unknown') continue;
    if (rule.verdict === 'accept') return 'accepted';
    if (rule.verdict === 'drop') return rule;
    if (rule.verdict === 'return') return null;
    if (rule.verdict === 'continue') continue;
    const end = follow(chains, rule.target, packet, { doubts, depth: depth + 1 });
    if (end !== null || rule.verdict === 'goto') return end;
  }
  return null;
}

/**
 * Whether a rule that drops or queues is reached by some packet that passes these interfaces. Of the conditions, only
 * those about interfaces count.
 */
export function mayDrop(chains: FilterChains, name: string, packet: Pick<HookedPacket, 'iif' | 'oif'>): boolean {
  return sieve(chains, name, { ...packet, source: 0, destination: 0, protocol: '', port: null, state: 'new' }, 0) === 'may drop';
}

function sieve(chains: FilterChains, name: string, packet: HookedPacket, depth: number): 'may drop' | 'all accepted' | null {
  if (depth > MAX_DEPTH) return null;
  for (const rule of chains.get(name)?.rules ?? []) {
    if (!rule.interfaces.every((holds) => holds(packet)) || rule.verdict === 'continue') continue;
    const isForAll = rule.understood && rule.conditions.length === rule.interfaces.length;
    if (rule.verdict === 'drop' || rule.verdict === 'queue' || rule.verdict === 'unknown') return 'may drop';
    if (rule.verdict === 'accept' && isForAll) return 'all accepted';
    if (rule.verdict === 'return' && isForAll) return null;
    if (rule.verdict !== 'jump' && rule.verdict !== 'goto') continue;
    const end = sieve(chains, rule.target, packet, depth + 1);
    if (end === 'may drop' || (end === 'all accepted' && isForAll)) return end;
    if (rule.verdict === 'goto' && isForAll) return null;
  }
  return null;
}

/** `+` or `*` at the end stands for any rest. */
function interfaceIs(name: string, pattern: string): boolean {
  return /[+*]$/.test(pattern) ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}

/** ADDRESS[/LENGTH]; undefined when it is no IPv4 address. */
function inSubnet(text: string): ((address: number) => boolean) | undefined {
  const [address, length = '32'] = text.split('/') as [string, string?];
  const base = parseIpv4(address);
  const prefix = Number(length);
  if (base === null || !(prefix >= 0 && prefix <= 32)) return undefined;
  return (a) => subnetContains({ base: (base & (prefix === 0 ? 0 : -1 << (32 - prefix))) >>> 0, prefix }, a);
}

/** PORT, or FIRST:LAST. */
function portIn(text: string): Condition | undefined {
  const [first, last = first] = text.split(':').map(Number) as [number, number?];
  return Number.isInteger(first) && Number.isInteger(last) ? (p) => p.port !== null && p.port >= first && p.port <= (last as number) : undefined;
}

const stateIn = (states: readonly string[]): Condition => {
  const known = new Set(states.map((s) => s.toLowerCase()));
  return (p) => known.has(p.state);
};

const TARGETS: Record<string, Verdict> = { ACCEPT: 'accept', DROP: 'drop', REJECT: 'drop', RETURN: 'return', QUEUE: 'queue', NFQUEUE: 'queue' };
/** Modules of iptables whose options are understood, or change nothing. */
const MODULES = new Set(['comment', 'tcp', 'udp', 'conntrack', 'state']);

/** A table as `iptables -S` prints it. */
export function parseXtables(lines: readonly string[]): FilterChains {
  const chains = new Map<string, FilterChain>();
  for (const line of lines) {
    const [command, name = '', policy] = line.split(' ');
    if (command === '-P') chains.set(name, { rules: [], policy: policy === 'DROP' ? 'drop' : 'accept' });
    else if (command === '-N') chains.set(name, { rules: [], policy: 'accept' });
  }
  for (const line of lines) {
    const [, name, rest] = /^-A (\S+) (.*)$/.exec(line) ?? [];
    if (name !== undefined) chains.get(name)?.rules.push(xtablesRule(line, rest as string, chains));
  }
  return chains;
}

function xtablesRule(text: string, words: string, chains: FilterChains): FilterRule {
  const rule: FilterRule = { text, conditions: [], interfaces: [], understood: true, verdict: 'continue', target: '' };
  const tokens = [...words.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map((m) => m[1] ?? (m[2] as string));
  let negated = false;
  for (let i = 0; i < tokens.length; i++) {
    const option = tokens[i] as string;
    if (option === '!') {
      negated = true;
      continue;
    }
    // options that are not understood may have no value
    const value = tokens[i + 1] ?? '';
    if (!value.startsWith('-')) i++;
    if (option === '-j' || option === '-g') {
      rule.target = value;
      rule.verdict = chains.has(value) ? (option === '-g' ? 'goto' : 'jump') : (TARGETS[value] ?? 'continue');
      return rule; // what follows are options of the target
    }
    const condition = xtablesCondition(option, value);
    if (condition === undefined) rule.understood = false;
    else if (condition !== null) {
      const holds: Condition = negated ? (p) => !condition(p) : condition;
      rule.conditions.push(holds);
      if (option === '-i' || option === '-o') rule.interfaces.push(holds);
    }
    negated = false;
  }
  return rule;
}

/** Null: always true. Undefined: not understood. */
function xtablesCondition(option: string, value: string): Condition | null | undefined {
  switch (option) {
    case '-i':
      return (p) => interfaceIs(p.iif, value);
    case '-o':
      return (p) => interfaceIs(p.oif, value);
    case '-s':
    case '-d': {
      const contains = inSubnet(value);
      return contains && ((p) => contains(option === '-s' ? p.source : p.destination));
    }
    case '-p':
      return (p) => p.protocol === value;
    case '--dport':
      return portIn(value);
    case '--ctstate':
    case '--state':
      return stateIn(value.split(','));
    case '--comment':
      return null;
    case '-m':
      return MODULES.has(value) ? null : undefined;
    default:
      return undefined;
  }
}

/** An expression as `nft -j` prints it. */
export type NftStatement = Record<string, unknown>;

interface NftMatch {
  op?: string;
  left?: { meta?: { key?: string }; payload?: { protocol?: string; field?: string }; ct?: { key?: string } };
  right?: unknown;
}

/** Statements that end a chain as an accept does. */
const NAT = ['snat', 'dnat', 'masquerade', 'redirect'] as const;

const isInterface = (left: NftMatch['left']): boolean => /^[io]if(name)?$/.test(left?.meta?.key ?? '');

/** A rule of nft; `text` names it. */
export function nftRule(text: string, statements: readonly NftStatement[]): FilterRule {
  const rule: FilterRule = { text, conditions: [], interfaces: [], understood: true, verdict: 'continue', target: '' };
  for (const statement of statements) {
    if ('match' in statement) {
      const match = statement['match'] as NftMatch;
      const condition = nftCondition(match);
      if (condition === undefined) rule.understood = false;
      else rule.conditions.push(condition);
      if (condition && isInterface(match.left)) rule.interfaces.push(condition);
    } else if ('accept' in statement || NAT.some((s) => s in statement)) rule.verdict = 'accept';
    else if ('drop' in statement || 'reject' in statement) rule.verdict = 'drop';
    else if ('queue' in statement) rule.verdict = 'queue';
    else if ('vmap' in statement) rule.verdict = 'unknown';
    else if ('return' in statement) rule.verdict = 'return';
    else if ('jump' in statement || 'goto' in statement) {
      rule.verdict = 'jump' in statement ? 'jump' : 'goto';
      rule.target = ((statement['jump'] ?? statement['goto']) as { target?: string }).target ?? '';
    } else if (!('counter' in statement || 'log' in statement)) rule.understood = false;
  }
  return rule;
}

function nftCondition({ op, left, right }: NftMatch): Condition | undefined {
  const values = valuesOf(right);
  if (values === undefined || (op !== '==' && op !== '!=' && op !== 'in')) return undefined;
  const condition = nftField(left, values);
  return condition && (op === '!=' ? (p) => !condition(p) : condition);
}

/** A value, or those of an anonymous set. Undefined: a set by name, or something else. */
function valuesOf(right: unknown): unknown[] | undefined {
  if (Array.isArray(right)) return right;
  if (typeof right === 'string') return right.startsWith('@') ? undefined : [right];
  if (typeof right !== 'object' || right === null) return [right];
  return 'set' in right ? (Array.isArray(right.set) ? right.set : undefined) : [right];
}

function nftField(left: NftMatch['left'], values: readonly unknown[]): Condition | undefined {
  const key = left?.meta?.key;
  if (key === 'iifname' || key === 'iif') return (p) => values.some((v) => interfaceIs(p.iif, String(v)));
  if (key === 'oifname' || key === 'oif') return (p) => values.some((v) => interfaceIs(p.oif, String(v)));
  if (key === 'l4proto') return (p) => values.includes(p.protocol);
  if (left?.ct?.key === 'state') return stateIn(values.map(String));
  const { protocol, field } = left?.payload ?? {};
  if (protocol === 'ip' && field === 'protocol') return (p) => values.includes(p.protocol);
  if (protocol === 'ip' && (field === 'saddr' || field === 'daddr')) {
    const subnets = values.map(nftSubnet);
    if (subnets.some((s) => s === undefined)) return undefined;
    return (p) => subnets.some((contains) => contains?.(field === 'saddr' ? p.source : p.destination));
  }
  if ((protocol === 'tcp' || protocol === 'udp') && field === 'dport') {
    const ports = values.map((v) => portIn(portText(v)));
    if (ports.some((c) => c === undefined)) return undefined;
    return (p) => p.protocol === protocol && ports.some((c) => c?.(p));
  }
  return undefined;
}

function nftSubnet(value: unknown): ((address: number) => boolean) | undefined {
  const prefix = (value as { prefix?: { addr?: string; len?: number } } | null)?.prefix;
  return inSubnet(prefix ? `${prefix.addr}/${prefix.len}` : String(value));
}

function portText(value: unknown): string {
  const range = (value as { range?: [number, number] } | null)?.range;
  return range ? range.join(':') : String(value);
}
