/** `explain`: parses the question and passes the packet to the engine (B93). */
import type { ExplainQuestion, Explanation } from '../api/types.ts';
import type { ObservedState } from '../engine/engine.ts';
import { AnkaError } from '../lib/errors.ts';
import type { PacketAddress, PacketProtocol } from '../net/explain/packet.ts';
import type { VmRow } from '../store/vms.ts';
import { parseIpv4 } from '../wire/address.ts';
import { parseIpv6 } from '../wire/address6.ts';
import type { Context } from './context.ts';
import { demandCard } from './vms/card-request.ts';

const PROTOCOLS: readonly string[] = ['tcp', 'udp', 'icmp', 'other'];

/** ADDR, ADDR:PORT or [IPV6]:PORT; instead of an address, a VM's name. */
export function parseEndpoint(text: string, addressOfVm: (name: string) => number | null): { address: PacketAddress; port: number | null } | null {
  const six = parseIpv6(text) ?? null;
  if (six !== null) return { address: six, port: null };
  const m = /^(?:\[([^\]]+)\]|([^:]*))(?::(\d{1,5}))?$/.exec(text);
  if (!m) return null;
  const port = m[3] === undefined ? null : Number(m[3]);
  if (port !== null && (port < 1 || port > 65_535)) return null;
  const address = m[1] === undefined ? (parseIpv4(m[2] as string) ?? addressOfVm(m[2] as string)) : parseIpv6(m[1]);
  return address === null ? null : { address, port };
}

export async function explainPacket(ctx: Context, vm: VmRow, question: ExplainQuestion, observed: () => Promise<ObservedState | null>): Promise<Explanation> {
  if (!PROTOCOLS.includes(question.protocol)) throw new AnkaError('badValue', `protocol '${question.protocol}' must be tcp, udp, icmp or other`);
  demandCard(vm);
  if (!ctx.machines.has(vm.uuid)) throw new AnkaError('vmNotRunning', `${vm.name} has no network while it is ${vm.status}; run 'anka start ${vm.name}' first`);
  const nics = (await observed())?.nics ?? [];
  const addressOfVm = (name: string): number | null => {
    const other = ctx.vms.all().find((v) => v.name === name || v.uuid === name);
    if (!other) return null;
    const ip = nics.find((n) => n.id === other.uuid)?.ip ?? null;
    if (ip === null) throw new AnkaError('badState', `${other.name} has no address yet; 'anka show ${other.name}' shows when it does`);
    return ip;
  };
  const parse = (what: string, text: string) => {
    const found = parseEndpoint(text, addressOfVm);
    if (!found) throw new AnkaError('badValue', `${what} '${text}' must be an address, ADDR:PORT with a port from 1 to 65535, or the name of a running VM`);
    return found;
  };
  const to = parse('to', question.to);
  const from = question.from === undefined ? { address: null, port: null } : parse('from', question.from);
  return (await ctx.engine()).explain(vm.uuid, {
    protocol: question.protocol as PacketProtocol,
    source: from.address,
    sourcePort: from.port,
    destination: to.address,
    port: to.port,
  });
}
