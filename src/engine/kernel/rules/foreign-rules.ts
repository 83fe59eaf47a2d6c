/**
 * What single rules of other firewalls do with a packet, for `anka doctor` and `anka explain`.
 *
 * Theory of operation: rules as `iptables -S` and `nft -j` print them are brought to one form, and followed from a base
 * chain through its jumps, as the kernel does. A rule with a condition that is not understood is skipped, so what
 * is found is a drop for sure, and a drop may be missed.
 *
 * Limits: the conditions understood are interfaces, IPv4 addresses, protocols, destination ports and connection states.
 * Sets by name, marks, limits and modules of iptables are not.
 */
import type { HookedPacket } from '../../../net/explain/kernel-engine.ts';
import { parseIpv4, subnetContains } from '../../../wire/address.ts';

type Condition = (p: HookedPacket) => boolean;
type Verdict = 'accept' | 'drop' | 'return' | 'jump' | 'goto' | 'continue';

export interface FilterRule {
  /** As its program prints it. */
  text: string;
  /** Null: not understood. */
  conditions: Condition[] | null;
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

/** The rule that drops a packet, from a base chain on; null: none does. A policy does not count. */
export function dropping(chains: FilterChains, base: string, packet: HookedPacket): FilterRule | null {
  const end = follow(chains, base, packet);
  return typeof end === 'object' ? end : null;
}

/** `accepted`, or the rule that drops the packet; null: the chain's end was reached. */
export function follow(chains: FilterChains, name: string, packet: HookedPacket, depth = 0): FilterRule | 'accepted' | null {
  if (depth > MAX_DEPTH) return 'accepted';
  for (const rule of chains.get(name)?.rules ?? []) {
    if (!rule.conditions?.every((holds) => holds(packet))) continue;
    if (rule.verdict === 'accept') return 'accepted';
    if (rule.verdict === 'drop') return rule;
    if (rule.verdict === 'return') return null;
    if (rule.verdict === 'continue') continue;
    const end = follow(chains, rule.target, packet, depth + 1);
    if (end !== null || rule.verdict === 'goto') return end;
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

const TARGETS: Record<string, Verdict> = { ACCEPT: 'accept', DROP: 'drop', REJECT: 'drop', RETURN: 'return' };
/** Modules of iptables whose options are understood, or change nothing. */
const MODULES = new Set(['comment', 'tcp', 'udp', 'conntrack', 'state']);

/** The filter table as `iptables -S` prints it. */
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
  const rule: FilterRule = { text, conditions: [], verdict: 'continue', target: '' };
  const tokens = [...words.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map((m) => m[1] ?? (m[2] as string));
  let negated = false;
  for (let i = 0; i < tokens.length; i++) {
    const option = tokens[i] as string;
    if (option === '!') {
      negated = true;
      continue;
    }
    const value = tokens[++i] ?? '';
    if (option === '-j' || option === '-g') {
      rule.target = value;
      rule.verdict = chains.has(value) ? (option === '-g' ? 'goto' : 'jump') : (TARGETS[value] ?? 'continue');
      return rule; // what follows are options of the target
    }
    const condition = xtablesCondition(option, value);
    if (condition === undefined) rule.conditions = null;
    else if (condition !== null) rule.conditions?.push(negated ? (p) => !condition(p) : condition);
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

/** A rule of nft; `text` names it. */
export function nftRule(text: string, statements: readonly NftStatement[]): FilterRule {
  const rule: FilterRule = { text, conditions: [], verdict: 'continue', target: '' };
  for (const statement of statements) {
    if ('match' in statement) {
      const condition = nftCondition(statement['match'] as NftMatch);
      if (condition === undefined) rule.conditions = null;
      else rule.conditions?.push(condition);
    } else if ('accept' in statement) rule.verdict = 'accept';
    else if ('drop' in statement || 'reject' in statement) rule.verdict = 'drop';
    else if ('return' in statement) rule.verdict = 'return';
    else if ('jump' in statement || 'goto' in statement) {
      rule.verdict = 'jump' in statement ? 'jump' : 'goto';
      rule.target = ((statement['jump'] ?? statement['goto']) as { target?: string }).target ?? '';
    } else if (!('counter' in statement || 'log' in statement)) rule.conditions = null;
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
