/**
 * Reads the text of a packet filter: pure, from text to rules.
 *
 *     (block|pass) (in|out|any|local) [all] [proto tcp|udp|tcp/udp|icmp|N] [from END] [to END]
 *     END = (ADDR[/PREFIX]|any|all) [port PORTS] | port PORTS
 *     PORTS = N | = N | N:M
 *
 * `from` and `to` come in any order. `quick` behind the direction and `keep state` at the end, as ipf.conf(5) has them,
 * change nothing: the first match always wins, and state is always kept. `#` begins a comment. Letter case does not
 * matter.
 *
 * Limits: IPv4 addresses only. 256 rules in 32 KiB.
 */
import { AnkaError } from '../../lib/errors.ts';
import { maskOf, parseIpv4, type SubnetLike } from '../../wire/address.ts';
import { parseIpv6 } from '../../wire/address6.ts';
import { IpProtocol } from '../../wire/ipv4.ts';
import { type FilterAction, type FilterDirection, type FilterEnd, type FilterRule, MAX_FILTER_BYTES, MAX_FILTER_RULES, type PortRange } from './filter-rule.ts';

const ACTIONS: readonly string[] = ['block', 'pass'] satisfies FilterAction[];
const DIRECTIONS: readonly string[] = ['in', 'out', 'any', 'local'] satisfies FilterDirection[];
const PROTOCOLS: Readonly<Record<string, readonly number[]>> = {
  tcp: [IpProtocol.tcp],
  udp: [IpProtocol.udp],
  'tcp/udp': [IpProtocol.tcp, IpProtocol.udp],
  icmp: [IpProtocol.icmp],
};
const ANY_ADDRESS: readonly string[] = ['any', 'all'];
const ANY_END: FilterEnd = { subnet: null, ports: null };
/** Characters of a line that a message repeats. */
const QUOTED = 60;
/** Characters that a terminal would act on. */
const CONTROL = /\p{Cc}/gu;

/** The rules of a filter, in order. Throws `badValue` with the number of the line that cannot be read. */
export function parseFilter(text: string): FilterRule[] {
  if (Buffer.byteLength(text) > MAX_FILTER_BYTES) throw bad(`the filter is larger than ${MAX_FILTER_BYTES} bytes; shorten it`);
  const rules: FilterRule[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    const rule = new LineParser(i + 1, line).rule();
    if (rule === null) continue;
    if (rules.length === MAX_FILTER_RULES)
      throw bad(`line ${i + 1}: a filter has at most ${MAX_FILTER_RULES} rules; merge some by prefixes or ranges of ports`);
    rules.push(rule);
  }
  return rules;
}

function bad(message: string): AnkaError {
  return new AnkaError('badValue', `network filter: ${message}`);
}

/** Reads one line, word by word. */
class LineParser {
  readonly #line: number;
  readonly #text: string;
  /** With its comment. */
  readonly #whole: string;
  readonly #words: readonly string[];
  #at = 0;

  constructor(line: number, text: string) {
    this.#line = line;
    this.#whole = text.trim().replaceAll('\t', ' ');
    this.#text = this.#whole.replace(/#.*/, '').trim();
    // an equals sign needs no blanks around it
    const spaced = this.#text.replaceAll('=', ' = ').toLowerCase();
    this.#words = spaced.split(/\s+/).filter((w) => w !== '');
  }

  /** Null for a line without a rule. */
  rule(): FilterRule | null {
    if (this.#whole.search(CONTROL) >= 0) throw this.#error('it has control characters; remove them');
    if (this.#words.length === 0) return null;
    const action = this.#oneOf(ACTIONS, 'a rule begins with block or pass') as FilterAction;
    const direction = this.#oneOf(DIRECTIONS, `in, out, any or local must follow ${action}`) as FilterDirection;
    this.#skip('quick');
    this.#skip('all');
    const protocols = this.#skip('proto') ? this.#protocols() : [];
    const [from, to] = this.#ends();
    if (this.#skip('keep') && !this.#skip('state')) throw this.#error("'state' must follow 'keep'");
    if (this.#at < this.#words.length) throw this.#error(`'${cut(this.#peek() ?? '')}' is not expected here; ${SYNTAX}`);
    if ((from.ports ?? to.ports) !== null && protocols.some((p) => p !== IpProtocol.tcp && p !== IpProtocol.udp))
      throw this.#error('only tcp and udp have ports; remove the port or the protocol');
    return { line: this.#line, text: this.#text, action, direction, protocols, from, to };
  }

  #ends(): [FilterEnd, FilterEnd] {
    let from: FilterEnd | null = null;
    let to: FilterEnd | null = null;
    for (;;) {
      if (this.#skip('from')) {
        if (from !== null) throw this.#error("'from' stands twice; keep one of them");
        from = this.#end('from');
      } else if (this.#skip('to')) {
        if (to !== null) throw this.#error("'to' stands twice; keep one of them");
        to = this.#end('to');
      } else return [from ?? ANY_END, to ?? ANY_END];
    }
  }

  #end(side: string): FilterEnd {
    const word = this.#peek();
    if (word === undefined) throw this.#error(`an address, any, or port must follow '${side}'`);
    let subnet: SubnetLike | null = null;
    if (word !== 'port') {
      this.#at++;
      subnet = ANY_ADDRESS.includes(word) ? null : this.#subnet(word);
    }
    return { subnet, ports: this.#skip('port') ? this.#ports() : null };
  }

  #subnet(word: string): SubnetLike {
    const [address = '', prefixText, ...rest] = word.split('/');
    if (parseIpv6(address)) throw this.#error(`'${cut(word)}': filters take IPv4 addresses only; a VM with a filter has no IPv6`);
    const ip = parseIpv4(address);
    const prefix = prefixText === undefined ? 32 : /^\d{1,2}$/.test(prefixText) ? Number(prefixText) : Number.NaN;
    if (ip === null || rest.length > 0 || !(prefix <= 32)) throw this.#error(`'${cut(word)}' is no address; use one like 10.0.0.1 or 10.0.0.0/8, or any`);
    return { base: (ip & maskOf({ base: ip, prefix })) >>> 0, prefix };
  }

  #ports(): PortRange {
    this.#skip('=');
    const word = this.#take(`a port from 1 to 65535 must follow 'port'`);
    const m = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(word);
    const first = Number(m?.[1]);
    const last = m?.[2] === undefined ? first : Number(m[2]);
    if (!m || first < 1 || last > 65_535) throw this.#error(`'${cut(word)}' is no port; use a number from 1 to 65535, or a range like 8000:8080`);
    if (first > last) throw this.#error(`'${cut(word)}' is an empty range of ports; use ${last}:${first}`);
    return { first, last };
  }

  #protocols(): readonly number[] {
    const word = this.#take("tcp, udp, tcp/udp, icmp or a number must follow 'proto'");
    const known = Object.hasOwn(PROTOCOLS, word) ? PROTOCOLS[word] : undefined;
    if (known) return known;
    if (/^\d{1,3}$/.test(word) && Number(word) <= 255) return [Number(word)];
    throw this.#error(`'${cut(word)}' is no protocol; use tcp, udp, tcp/udp, icmp or a number from 0 to 255`);
  }

  #peek(): string | undefined {
    return this.#words[this.#at];
  }

  #skip(word: string): boolean {
    if (this.#peek() !== word) return false;
    this.#at++;
    return true;
  }

  #take(missing: string): string {
    const word = this.#peek();
    if (word === undefined) throw this.#error(missing);
    this.#at++;
    return word;
  }

  #oneOf(words: readonly string[], otherwise: string): string {
    const word = this.#peek();
    if (word === undefined || !words.includes(word)) throw this.#error(`${word === undefined ? '' : `'${cut(word)}': `}${otherwise}`);
    this.#at++;
    return word;
  }

  #error(what: string): AnkaError {
    return bad(`line ${this.#line}, '${cut(this.#text)}': ${what}`);
  }
}

const SYNTAX = 'a rule is (block|pass) (in|out|any|local) [proto P] [from ADDR [port N]] [to ADDR [port N]]';

/** Short, and without characters that a terminal would act on. */
function cut(text: string): string {
  const shown = text.replace(CONTROL, '?');
  return shown.length > QUOTED ? `${shown.slice(0, QUOTED)}…` : shown;
}
