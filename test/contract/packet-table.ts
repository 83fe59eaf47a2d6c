/** A table of packets: each is explained, then sent from its sender's namespace and looked for in every namespace. */
import { expect } from 'vitest';
import type { Explanation } from '../../src/net/explain/explanation.ts';
import type { Packet, PacketAddress, PacketProtocol } from '../../src/net/explain/packet.ts';
import { formatIpv4, parseIpv4 } from '../../src/wire/address.ts';
import type { RemoteEngine } from '../world/remote-engine.ts';
import { type Namespace, until, type World } from '../world/world.ts';
import { vmId } from './guest-tools.ts';
import { Observers } from './packet-probe.ts';

/**
 * Names of senders, and of addresses in the table: `ip1` is vm1's address, `ll2` vm2's link-local IPv6 address; source
 * `-` is the sender's own.
 */
export type TestPacket = [
  about: number,
  sender: string,
  protocol: PacketProtocol,
  source: string,
  destination: string,
  port: number,
  /** `kernel/user` where the engines differ; `-` where the packet makes no sense. */
  verdict: string,
  sourcePort?: number,
];

const NUMBERS: Record<PacketProtocol, number> = { icmp: 1, tcp: 6, udp: 17, other: 47 };
const token = (i: number): string => `token-${String(i).padStart(3, '0')}`;

export class PacketTable {
  readonly rows: readonly TestPacket[];
  readonly namespaces = new Map<string, Namespace>();
  /** Names in the table, by the addresses that they represent. */
  readonly addresses = new Map<string, string>();
  #explanations: Explanation[] = [];
  #answers: string[] = [];
  #observers: Observers | null = null;

  constructor(rows: readonly TestPacket[]) {
    this.rows = rows;
  }

  #resolve(text: string): string {
    return this.addresses.get(text) ?? text;
  }

  /**
   * Starts observers in all guests, outside and on the host. `groups`: addresses of interfaces on which a guest joins a
   * multicast group.
   */
  async watch(w: World, groups: (name: string) => string[], others: { outside: string[]; host: string[] }): Promise<void> {
    this.#observers = new Observers(w);
    for (const [name, ns] of this.namespaces) await this.#observers.watch(name, ns, groups(name));
    this.namespaces.set('outside', w.outside).set('host', w.host);
    await this.#observers.watch('outside', w.outside, others.outside);
    await this.#observers.watch('host', w.host, others.host);
  }

  /** Packets from `begin` to before `end`, in order. `fixed`: addresses of senders without a name. */
  async explainAndSend(e: RemoteEngine, fixed: Record<string, string> = {}, begin = 0, end = this.rows.length): Promise<void> {
    for (const [about, , protocol, source, destination, port, , sourcePort] of this.rows.slice(begin, end)) {
      const address = (text: string): PacketAddress => parseIpv4(this.#resolve(text)) ?? this.#resolve(text);
      const packet: Packet = {
        protocol,
        source: source === '-' ? null : address(source),
        sourcePort: sourcePort ?? null,
        destination: address(destination),
        port: port === 0 ? null : port,
      };
      this.#explanations.push(await e.explain(vmId(about), packet));
    }
    // concurrently: each is a process that may wait for an answer
    let next = begin;
    const work = async (): Promise<void> => {
      for (let i = next++; i < end; i = next++) {
        const [, sender, protocol, source, destination, port, , sourcePort] = this.rows[i] as TestPacket;
        const to = this.#resolve(destination);
        const n = Number(sender.slice(2));
        const own = source === '-' || source === `ip${n}` || sender === 'host' || sender === 'outside';
        const from = source !== '-' ? this.#resolve(source) : (fixed[sender] ?? this.#resolve(`ip${n}`));
        const kind = to.includes(':') ? 'udp6' : protocol === 'tcp' ? (own ? 'connect' : 'syn') : protocol;
        // an expected answer may take long on a loaded machine
        const explanation = this.#explanations[i] as Explanation;
        const wait = explanation.verdict === 'refused' || explanation.arrives.some((a) => a.at === 'gateway') ? 60 : kind === 'connect' ? 3 : 1;
        this.#answers[i] = (await this.#observers?.send(this.namespaces.get(sender) as Namespace, kind, token(i), from, to, sourcePort ?? 0, port, wait)) ?? '';
      }
    };
    await Promise.all(Array.from({ length: 12 }, work));
    await until(
      'allowed packets have arrived',
      () =>
        this.#explanations.every((x, i) => x.arrives.length === 0 || x.arrives.every((a) => a.at === 'gateway' || this.#seenAt(i).some((s) => s.at === a.at))),
      60_000,
    ).catch(() => {});
  }

  /**
   * Where the packet arrived, without the host's end of a forwarding listener, the sender's own copy of a broadcast,
   * and answers.
   */
  #seenAt(i: number) {
    const [, sender, , , destination] = this.rows[i] as TestPacket;
    const isGroup = /^(239|.*\.255$)/.test(destination);
    const x = this.#explanations[i] as Explanation;
    const isForwarded = x.steps.some((s) => s.does.includes('listener')) || x.arrives.some((a) => a.at === 'gateway');
    return (this.#observers?.seen.get(token(i)) ?? []).filter(
      (s) => !(isForwarded && s.at === 'host') && !(s.at === sender && (isGroup || (s.source === this.#resolve(destination) && s.destination !== s.source))),
    );
  }

  names(): [string, number][] {
    return this.rows.map((r, i) => [`${r[1]}: ${r[2]} ${r[3]} → ${r[4]}${r[5] ? `:${r[5]}` : ''}`, i]);
  }

  /** Checks that the packet did what `explain` predicted. */
  check(i: number): void {
    const [, , protocol, , , , verdict] = this.rows[i] as TestPacket;
    const x = this.#explanations[i] as Explanation;
    const answer = this.#answers[i];
    const seen = this.#seenAt(i);
    expect(x.verdict, JSON.stringify(x)).toBe(verdict);
    expect(new Set(seen.map((s) => s.at)), `${JSON.stringify(x)} ${answer}`).toEqual(new Set(x.arrives.map((a) => a.at).filter((at) => at !== 'gateway')));
    if (verdict === 'allowed') expect(x.arrives.length).toBeGreaterThan(0);
    for (const a of x.arrives) {
      if (a.at === 'gateway') {
        expect(answer, 'the gateway itself answers').toBe('answered');
        continue;
      }
      const s = seen.find((y) => y.at === a.at && y.protocol === NUMBERS[protocol]);
      expect(s, `of ${protocol}`).toBeDefined();
      expect(s?.source, 'the source').toBe(a.source);
      if (s?.destination !== '?') expect(s?.destination, 'the destination').toBe(a.destination);
      // the kernel engine redirects DHCP and DNS for the host to other ports; VMs may receive the broadcast after that
      if (a.port !== null && a.at !== 'host' && (a.port !== 67 || a.at === 'outside')) expect(s?.port, 'the port').toBe(a.port);
    }
    if (verdict !== 'allowed') expect(answer).toBe(verdict === 'refused' ? 'refused' : 'silent');
    expect(x.translated).toBe(x.arrives.some((a) => a.source !== formatIpv4(0) && x.packet !== `${protocol} ${a.source} → ${a.destination}` && changed(x, a)));
  }
}

/** Whether the packet's text has another source, destination or port than the arrival. */
function changed(x: Explanation, a: Explanation['arrives'][number]): boolean {
  const [from, to] = x.packet.slice(x.packet.indexOf(' ') + 1).split(' → ') as [string, string];
  const [, address, port] = /^\[?([0-9a-f.:]+?)\]?(?::(\d+))?$/.exec(to.includes('.') || to.startsWith('[') ? to : `[${to}]`) as unknown as [
    string,
    string,
    string,
  ];
  return !from.startsWith(a.source) || address !== a.destination || (port === undefined ? null : Number(port)) !== a.port;
}
