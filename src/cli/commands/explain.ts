/** `anka explain`: what happens to a packet, step by step, and which rule decides (B93). */
import type { Explanation } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { extraArguments } from '../help/usage.ts';
import { type Session, vmPath } from '../session.ts';

const PROTOCOLS = ['tcp', 'udp', 'icmp', 'other'];

/** Parses `[from ADDR] to ADDR [PROTOCOL]`; the protocol may also come first. */
export function parsePacket(words: readonly string[]): { from?: string; to: string; protocol: string } {
  const rest = [...words];
  const takeAddress = (word: string): string | undefined => {
    const i = rest.indexOf(word);
    if (i < 0) return undefined;
    const [, value] = rest.splice(i, 2);
    if (value === undefined) throw new AnkaError('usage', `Missing address after '${word}'.`);
    return value;
  };
  const from = takeAddress('from');
  const to = takeAddress('to');
  if (to === undefined) throw new AnkaError('usage', "Missing 'to ADDR[:PORT]', such as 'to 198.51.100.1:443'.");
  const [protocol = 'tcp', ...extra] = rest;
  if (!PROTOCOLS.includes(protocol)) throw new AnkaError('usage', `Invalid value for protocol: '${protocol}' is not one of 'tcp', 'udp', 'icmp', 'other'.`);
  if (extra.length > 0) throw new AnkaError('usage', extraArguments(extra));
  return { to, protocol, ...(from === undefined ? {} : { from }) };
}

export async function explain(s: Session, vm: string, words: readonly string[]): Promise<void> {
  const query = new URLSearchParams(parsePacket(words));
  const found = await (await s.daemon()).get<Explanation>(vmPath(vm, `/explain?${query}`));
  const width = Math.max(0, ...found.steps.map((x) => x.at.length));
  const lines = [
    found.packet,
    ...found.steps.map((x) => `  ${x.at.padEnd(width)}  ${x.does}${x.rule ? `  (${x.rule})` : ''}`),
    ...found.arrives.map((a) => `  arrives at ${a.at} as ${a.source} → ${a.destination}${a.port === null ? '' : `:${a.port}`}`),
    `${found.verdict}: ${found.reason}`,
    `decided by: ${found.rule}`,
  ];
  s.out.done(found, lines.join('\n'));
}
