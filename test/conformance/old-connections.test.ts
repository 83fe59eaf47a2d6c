/**
 * What becomes of connections when rules, addresses or networks change (B22, B60, B91): flows are open before a change,
 * and afterwards go on, or are cut; the table also says where a new client gets. RFC 4787 REQ-8 and RFC 5382 REQ-5 ask
 * for what is allowed; this is about what is not allowed any more.
 */
import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DesiredNic, DesiredState } from '../../src/engine/engine.ts';
import { dhcp, greet, greeting, guest, macText, nic, rule, serve, state, vmId } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const INTERNET = '198.51.100.1';
const OUTSIDE = '10.9.0.1';
const METADATA = '169.254.169.254';
const HOST = '10.9.0.2';
const OTHER_HOST = '10.9.0.3';
const GW = '192.168.64.1';
const SELF_SET = '192.168.64.77';
const FURTHER = '192.168.64.88';
/** Sends to whoever has sent to it, without an end, and prints a line once it listens and for each datagram. */
const STREAM = `
import socket, time
s = socket.socket(2, 2); s.bind(('${INTERNET}', 7777)); print('ready', flush=True); _, peer = s.recvfrom(9)
while True:
  s.sendto(b'x', peer); print('sent', flush=True); time.sleep(0.02)`;
/** Sends to it from port 5555, and prints what it gets. */
const RECEIVE = (asks: boolean): string => `
import socket
s = socket.socket(2, 2); s.bind(('', 5555)); print('ready', flush=True)
${asks ? `s.sendto(b'x', ('${INTERNET}', 7777))` : ''}
while True:
  s.recv(9); print('received', flush=True)`;
const PROTOCOLS = ['tcp', 'udp'] as const;

const SUITES = [
  { kind: 'kernel' as const, why: missing('root', 'netns') },
  { kind: 'user' as const, why: missing('root', 'netns', 'tun', 'cc') },
].map((s) => [`${s.kind} engine${s.why === null ? '' : ` (${s.why})`}`, s] as const);

interface FlowState {
  sent: number;
  answers: number;
  last: string;
  /** All different answers. */
  heard: string[];
  end: string | null;
}

/** Flows that begin in one namespace. */
class FlowClient {
  readonly #child: ChildProcess;
  readonly #lists: ((flows: Record<string, FlowState>) => void)[] = [];
  #next = 1;

  constructor(ns: Namespace) {
    this.#child = ns.spawn(['python3', fileURLToPath(new URL('flows.py', import.meta.url))]);
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) => this.#lists.shift()?.(JSON.parse(line)));
  }

  /** Returns its id at once. */
  open(protocol: 'tcp' | 'again' | 'udp', address: string, port: number, from = ''): string {
    const id = String(this.#next++);
    this.#child.stdin?.write(`open ${id} ${protocol} ${address} ${port} ${from}\n`);
    return id;
  }

  async state(id: string): Promise<FlowState> {
    const list = new Promise<Record<string, FlowState>>((resolve) => this.#lists.push(resolve));
    this.#child.stdin?.write('list\n');
    return (await list)[id] as FlowState;
  }

  closeAll(): void {
    this.#child.stdin?.write('close\n');
  }
}

/** Who begins a flow, and to where. */
type Name =
  | 'outside by the rule'
  | 'host by the rule'
  | 'loopback by the rule'
  | 'VM by the rule'
  | 'VM to outside'
  | 'VM to host'
  | 'VM to VM'
  | 'VM to metadata';

/**
 * `goes on`: to the same server. `reset`: the client gets a RST. `cut`: it gets a RST, or no answer any more. A name:
 * the same socket's datagrams are answered by that server now, which sees this client.
 */
type Outcome = 'goes on' | 'reset' | 'cut' | `${string} sees ${string}`;

interface Row {
  change: string;
  before?: () => DesiredState;
  /** The desired state, or what else is done. */
  after: () => DesiredState | Promise<unknown>;
  /** For each flow: by TCP, by UDP, and what a new client gets; null: nothing. */
  flows: Partial<Record<Name, [tcp: Outcome, udp: Outcome, now: string | null]>>;
}

describe.each(SUITES)('%s', (_suite, { kind, why }) => {
  const kernel = kind === 'kernel';
  let w: World;
  let e: RemoteEngine;
  let vms: Namespace[];
  let ip1 = '';
  let ip2 = '';
  let clients: Map<Namespace, FlowClient>;

  const rules = PROTOCOLS.map((p) => rule(10_001, 8080, p));
  const desired = (one: Partial<DesiredNic> = {}, two: Partial<DesiredNic> = {}): DesiredState =>
    state(nic(1, 'shared', { rules, ...one }), nic(2, 'shared', two));
  const moved = (): DesiredState => desired({ rules: [] }, { rules });
  const observed = async (n: number) => (await e.observe()).nics.find((x) => x.id === vmId(n));
  const client = (ns: Namespace): FlowClient => clients.get(ns) as FlowClient;
  const endsOf = (name: Name): [from: Namespace, address: string, port: number] => {
    const [vm1, vm2] = vms as [Namespace, Namespace];
    const all: Record<Name, [Namespace, string, number]> = {
      'outside by the rule': [w.outside, HOST, 10_001],
      'host by the rule': [w.host, HOST, 10_001],
      'loopback by the rule': [w.host, '127.0.0.1', 10_001],
      'VM by the rule': [vm2, GW, 10_001],
      'VM to outside': [vm1, OUTSIDE, 8080],
      'VM to host': [vm1, GW, 8081],
      'VM to VM': [vm1, ip2, 8080],
      'VM to metadata': [vm1, METADATA, 8083],
    };
    return all[name];
  };
  const apply = async (to: DesiredState): Promise<void> => expect(await e.apply(to)).toEqual([]);
  /** The state before each change. */
  const restore = async (to = desired()): Promise<void> => {
    await apply(to);
    await until('the rule answers', async () => (await greet(w.outside, 'tcp', HOST, 10_001)) === 'vm1 sees 10.9.0.1');
  };
  const answers = async (from: Namespace, id: string): Promise<FlowState> =>
    until('the flow is answered', async () => {
      const s = await client(from).state(id);
      return s.last !== '' && s.answers > 1 ? s : null;
    });
  const begin = async (from: Namespace, protocol: 'tcp' | 'udp', address: string, port: number): Promise<string> => {
    const id = client(from).open(protocol, address, port);
    await answers(from, id);
    return id;
  };
  /** Whether a flow that sends is not answered any more. */
  const isCut = async (from: Namespace, id: string): Promise<boolean> => {
    const old = await client(from).state(id);
    const now = await until('it has sent more, or ended', async () => {
      const s = await client(from).state(id);
      return s.end !== null || s.sent > old.sent + 5 ? s : null;
    });
    return now.end !== null || now.answers === old.answers;
  };
  const expectOutcome = async (from: Namespace, id: string, before: FlowState, outcome: Outcome): Promise<void> => {
    if (outcome === 'reset') {
      const ended = await until('it is reset', async () => (await client(from).state(id)).end);
      expect(ended).toBe('ECONNRESET');
    } else if (outcome === 'cut') await until('it is cut', () => isCut(from, id));
    else if (outcome === 'goes on') {
      const { answers: old } = await client(from).state(id);
      const now = await until('it goes on', async () => {
        const s = await client(from).state(id);
        return s.end !== null || s.answers > old + 2 ? s : null;
      });
      expect(now).toMatchObject({ end: null, last: before.last });
    } else await until(`it is answered: ${outcome}`, async () => (await client(from).state(id)).last === outcome);
  };
  const expectNew = async (from: Namespace, protocol: 'tcp' | 'udp', address: string, port: number, now: string | null): Promise<void> => {
    if (now === null) expect(await greet(from, protocol, address, port, 1)).not.toContain('sees');
    else await until(`a new client gets: ${now}`, async () => (await greet(from, protocol, address, port)) === now);
  };
  const setAddress = (g: Namespace, ip: string): string =>
    g.run(`ip -4 addr flush dev eth0; ip addr add ${ip}/24 dev eth0; ip route replace default via ${GW}`);
  const restart = async (then = desired()): Promise<void> => {
    await e.kill();
    e = new RemoteEngine(w, kind);
    await apply(then);
  };
  const entries = (): string[] => w.host.run('cat /proc/net/nf_conntrack').split('\n');

  beforeEach((context) => context.skip(why !== null));

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('to-');
    w.host.run(`sysctl -qw net.ipv4.ping_group_range="0 2147483647"; ip addr add ${OTHER_HOST}/24 dev en0`);
    w.outside.run(`ip addr add ${METADATA}/32 dev lo`);
    vms = kernel ? [1, 2].map((n) => guest(w, n)) : [];
    e = new RemoteEngine(w, kind);
    await apply(desired());
    if (!kernel) for (const n of [1, 2]) vms.push(await shimmedGuest(w, `g${n}`, macText(n), (await e.openNic(vmId(n))).path));
    await serve(w.outside, 8080, 'outside');
    await serve(w.outside, 8083, 'metadata', METADATA);
    await serve(w.host, 8081, 'host');
    for (const [i, g] of vms.entries()) await serve(g, 8080, `vm${i + 1}`);
    await serve(vms[0] as Namespace, 8082, 'vm1 at 8082');
    [ip1, ip2] = (await Promise.all(vms.map(async (g) => (await dhcp(w, g))?.ip))) as [string, string];
    clients = new Map([w.outside, w.host, ...vms].map((ns) => [ns, new FlowClient(ns)]));
    await restore();
  });

  afterEach(() => {
    for (const c of clients?.values() ?? []) c.closeAll();
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    if (kernel)
      expect(
        entries().filter((l) => l.includes('192.168.64.')),
        'no connection is left',
      ).toEqual([]);
    w.close();
  });

  const fromOutside = `vm1 sees 10.9.0.1`;
  const ROWS: Row[] = [
    {
      change: 'a rule of another VM is added',
      after: () => desired({}, { rules: [rule(10_009, 8080)] }),
      flows: {
        'outside by the rule': ['goes on', 'goes on', fromOutside],
        'host by the rule': ['goes on', 'goes on', `vm1 sees ${HOST}`],
        'loopback by the rule': ['goes on', 'goes on', `vm1 sees ${GW}`],
        'VM by the rule': ['goes on', 'goes on', `vm1 sees ${GW}`],
        'VM to outside': ['goes on', 'goes on', `outside sees ${HOST}`],
      },
    },
    {
      change: 'the rule is removed',
      after: () => desired({ rules: [] }),
      flows: {
        'outside by the rule': ['reset', 'cut', null],
        'host by the rule': ['reset', 'cut', null],
        'loopback by the rule': ['reset', 'cut', null],
        'VM by the rule': ['reset', 'cut', null],
        'VM to outside': ['goes on', 'goes on', `outside sees ${HOST}`],
      },
    },
    {
      change: 'the rule moves to another VM',
      after: moved,
      flows: {
        'outside by the rule': ['reset', 'vm2 sees 10.9.0.1', 'vm2 sees 10.9.0.1'],
        'host by the rule': ['reset', `vm2 sees ${HOST}`, `vm2 sees ${HOST}`],
        'loopback by the rule': ['reset', `vm2 sees ${GW}`, `vm2 sees ${GW}`],
        'VM by the rule': ['reset', `vm2 sees ${GW}`, `vm2 sees ${GW}`],
      },
    },
    {
      change: 'the rule moves back',
      before: moved,
      after: () => desired(),
      flows: {
        'outside by the rule': ['reset', fromOutside, fromOutside],
        'host by the rule': ['reset', `vm1 sees ${HOST}`, `vm1 sees ${HOST}`],
        'loopback by the rule': ['reset', `vm1 sees ${GW}`, `vm1 sees ${GW}`],
      },
    },
    {
      change: 'the rule moves while no daemon runs',
      after: () => restart(moved()),
      flows: {
        'outside by the rule': ['reset', 'vm2 sees 10.9.0.1', 'vm2 sees 10.9.0.1'],
        'host by the rule': ['reset', `vm2 sees ${HOST}`, `vm2 sees ${HOST}`],
      },
    },
    {
      change: 'the rule leads to another port of the guest',
      after: () => desired({ rules: PROTOCOLS.map((p) => rule(10_001, 8082, p)) }),
      flows: { 'outside by the rule': ['reset', 'vm1 at 8082 sees 10.9.0.1', 'vm1 at 8082 sees 10.9.0.1'] },
    },
    {
      change: 'the rule is for another address of the host',
      after: () => desired({ rules: PROTOCOLS.map((p) => rule(10_001, 8080, p, 0x0a090003)) }),
      flows: { 'outside by the rule': ['reset', 'cut', null], 'host by the rule': ['reset', 'cut', null] },
    },
    {
      change: 'the rule is removed and added again',
      after: () => apply(desired({ rules: [] })).then(() => apply(desired())),
      flows: {
        'outside by the rule': ['reset', fromOutside, fromOutside],
        'host by the rule': ['reset', `vm1 sees ${HOST}`, `vm1 sees ${HOST}`],
      },
    },
    {
      change: 'the daemon is started again',
      after: () => restart(),
      flows: {
        'outside by the rule': ['goes on', 'goes on', fromOutside],
        'host by the rule': ['goes on', 'goes on', `vm1 sees ${HOST}`],
        'loopback by the rule': ['goes on', 'goes on', `vm1 sees ${GW}`],
        'VM by the rule': ['goes on', 'goes on', `vm1 sees ${GW}`],
        'VM to outside': ['goes on', 'goes on', `outside sees ${HOST}`],
        'VM to host': ['goes on', 'goes on', kernel ? 'host sees IP1' : `host sees ${HOST}`],
      },
    },
    {
      change: 'the VM is isolated',
      after: () => desired({ isolated: true }),
      flows: {
        'outside by the rule': ['goes on', 'goes on', fromOutside],
        'loopback by the rule': ['goes on', 'goes on', `vm1 sees ${GW}`],
        'VM to outside': ['goes on', 'goes on', `outside sees ${HOST}`],
        'VM to host': ['reset', 'cut', null],
        'VM to VM': ['cut', 'cut', null],
      },
    },
    {
      change: 'the other VM is isolated',
      after: () => desired({}, { isolated: true }),
      flows: {
        'VM by the rule': ['reset', 'cut', null],
        'VM to VM': ['cut', 'cut', null],
        'VM to host': ['goes on', 'goes on', kernel ? 'host sees IP1' : `host sees ${HOST}`],
      },
    },
    {
      change: 'the metadata service is closed',
      before: () => ({ ...desired(), metadata: true }),
      after: () => desired(),
      flows: {
        'VM to metadata': ['cut', 'cut', null],
        'VM to outside': ['goes on', 'goes on', `outside sees ${HOST}`],
      },
    },
    {
      change: 'the guest sets another address',
      after: async () => {
        setAddress(vms[0] as Namespace, SELF_SET);
        (vms[0] as Namespace).attempt(`ping -c1 -W1 -q ${GW}`);
        await until('it is seen', async () => (await observed(1))?.ip === 0xc0a8404d);
      },
      flows: {
        'outside by the rule': ['reset', fromOutside, fromOutside],
        'host by the rule': ['reset', `vm1 sees ${HOST}`, `vm1 sees ${HOST}`],
        'loopback by the rule': ['reset', `vm1 sees ${GW}`, `vm1 sees ${GW}`],
      },
    },
    {
      change: 'the card is disconnected',
      after: () => state(nic(1, 'disconnected', { rules }), nic(2)),
      flows: {
        'outside by the rule': ['reset', 'cut', null],
        'host by the rule': ['reset', 'cut', null],
        'loopback by the rule': ['reset', 'cut', null],
        'VM to outside': ['cut', 'cut', null],
      },
    },
    {
      change: 'the card moves to another network',
      after: () => state(nic(1, 'host', { rules }), nic(2)),
      flows: { 'outside by the rule': ['reset', 'cut', null], 'VM to outside': ['cut', 'cut', null] },
    },
    {
      change: 'the guest sets a further address',
      after: async () => {
        (vms[0] as Namespace).run(`ip addr add ${FURTHER}/24 dev eth0; busybox arping -U -c1 -w2 -q -I eth0 ${FURTHER} || true`);
        await until('it is seen', async () => (await observed(1))?.addresses.some((a) => a.ip === 0xc0a84058));
      },
      flows: {
        'outside by the rule': ['goes on', 'goes on', fromOutside],
        'loopback by the rule': ['goes on', 'goes on', `vm1 sees ${GW}`],
        'VM to outside': ['goes on', 'goes on', `outside sees ${HOST}`],
      },
    },
  ];

  test.each(ROWS)('B22, B60, B91: $change', async ({ before, after, flows }) => {
    await backAgain();
    if (before) await restoreOr(before());
    const open = await Promise.all(
      Object.entries(flows).flatMap(([name, [tcp, udp, now]]) =>
        PROTOCOLS.map(async (protocol) => {
          const [from, address, port] = endsOf(name as Name);
          const id = await begin(from, protocol, address, port);
          const outcome = protocol === 'tcp' ? tcp : udp;
          return { what: `${name}, ${protocol}`, from, protocol, address, port, id, outcome, now, began: await client(from).state(id) };
        }),
      ),
    );
    const to = await after();
    if (to && typeof to === 'object' && 'nics' in to) await apply(to as DesiredState);
    const wrong: string[] = [];
    await Promise.all(
      open.map(async (f) => {
        try {
          await expectOutcome(f.from, f.id, f.began, f.outcome);
          await expectNew(f.from, f.protocol, f.address, f.port, f.now?.replace('IP1', ip1) ?? null);
        } catch (cause) {
          wrong.push(`${f.what}: ${(cause as Error).message}`);
        }
      }),
    );
    expect(wrong).toEqual([]);
  });

  /** Another state than that of `desired` to begin with. */
  const restoreOr = async (to: DesiredState): Promise<void> => {
    await apply(to);
    await until('its rules answer', async () => (await greet(w.outside, 'tcp', HOST, 10_001)).includes('sees 10.9.0.1'));
  };
  /** A test that failed may have left any state. */
  const backAgain = async (): Promise<void> => {
    await apply(desired());
    const [vm1] = vms as [Namespace];
    vm1.attempt(`ip addr del ${FURTHER}/24 dev eth0`);
    // the next lease may be another address
    if (!vm1.run('ip -4 addr show dev eth0').includes(`${ip1}/`) || (await observed(1))?.ip === null) ip1 = (await dhcp(w, vm1))?.ip ?? '';
    await restore();
  };

  /** Of UDP the same socket sends; of TCP the client connects until it is answered. */
  const OLDER = [
    ['udp', 'the rule is added', () => desired({ rules: [] }), () => apply(desired())],
    ['again', 'the rule is added', () => desired({ rules: [] }), () => apply(desired())],
    ['again', 'the rule returns with a new daemon', () => desired({ rules: [] }), () => restart()],
  ] as const;

  test.each(OLDER)(
    'B60: clients that are older than a rule reach its guest as themselves, and never as the gateway: %s, %s',
    async (protocol, _change, initial, change) => {
      await apply(initial());
      const [, vm2] = vms as [Namespace, Namespace];
      const senders = (
        [
          [w.outside, HOST, 'vm1 sees 10.9.0.1'],
          [w.outside, OTHER_HOST, 'vm1 sees 10.9.0.1'],
          [w.host, HOST, `vm1 sees ${HOST}`],
          [w.host, '127.0.0.1', `vm1 sees ${GW}`],
          [vm2, GW, `vm1 sees ${GW}`],
        ] as const
      ).map(([from, address, answer]) => ({ from, answer, id: client(from).open(protocol, address, 10_001) }));
      if (protocol === 'udp') for (const { from, id } of senders) await until('it sends', async () => (await client(from).state(id)).sent > 3);
      await change();
      for (const { from, id, answer } of senders) {
        await until(`answered: ${answer}`, async () => (await client(from).state(id)).answers > 3);
        const { heard } = await client(from).state(id);
        // while the user engine opens the port, a VM's datagram to the gateway may still go by the host's own address
        if (from === vm2 && !kernel) expect([`vm1 sees ${HOST}`, answer]).toEqual(expect.arrayContaining(heard));
        else expect(heard).toEqual([answer]);
      }
    },
  );

  test('B22: what still comes for a VM that was deleted does not reach the VM that gets its address', async () => {
    const attach = async (n: number, to: DesiredState): Promise<Namespace> => {
      const g = kernel ? guest(w, n) : null;
      await apply(to);
      return g ?? shimmedGuest(w, `g${n}`, macText(n), (await e.openNic(vmId(n))).path);
    };
    const run = (ns: Namespace, program: string): { lines: () => number } => {
      let text = '';
      ns.spawn(['python3', '-c', program]).stdout?.on('data', (d: Buffer) => (text += d.toString()));
      return { lines: () => text.split('\n').length - 1 };
    };
    const vm3 = await attach(3, state(...desired().nics, nic(3)));
    const ip3 = (await dhcp(w, vm3))?.ip ?? '';
    const stream = run(w.outside, STREAM);
    await until('the stream waits', () => stream.lines() > 0);
    const first = run(vm3, RECEIVE(true));
    await until('the stream arrives', () => first.lines() > 2);
    await apply(desired());
    await e.forgetNic(vmId(3));
    const reservedIp = ip3.split('.').reduce((n, b) => n * 256 + Number(b), 0);
    const vm4 = await attach(4, state(...desired().nics, nic(4, 'shared', { reservedIp })));
    expect((await dhcp(w, vm4))?.ip).toBe(ip3);
    const second = run(vm4, RECEIVE(false));
    await until('it listens', () => second.lines() > 0);
    const sent = stream.lines();
    await until('the stream goes on', () => stream.lines() > sent + 20);
    expect(second.lines()).toBe(1);
    await restore();
  });

  test.runIf(kernel)('B90: connections that began while another program had deleted the rules follow them once they are repaired', async () => {
    const [vm1] = vms as [Namespace];
    await e.kill();
    w.host.run('nft delete table ip anka');
    const outbound = await begin(vm1, 'udp', OUTSIDE, 8080);
    expect((await client(vm1).state(outbound)).last, 'not translated').toBe(`outside sees ${ip1}`);
    const inbound = client(w.outside).open('udp', HOST, 10_001);
    await until('it sends', async () => (await client(w.outside).state(inbound)).sent > 3);
    const connecting = client(w.outside).open('again', HOST, 10_001);
    expect(await greet(w.outside, 'tcp', HOST, 10_001)).toBe('reset');
    e = new RemoteEngine(w, kind);
    await apply(desired());
    await until('outbound is translated', async () => (await client(vm1).state(outbound)).last === `outside sees ${HOST}`);
    await until('inbound reaches the guest', async () => (await client(w.outside).state(inbound)).last !== '');
    await until('a TCP client reaches it', async () => (await client(w.outside).state(connecting)).last !== '');
    for (const id of [inbound, connecting]) expect((await client(w.outside).state(id)).heard).toEqual([fromOutside]);
  });

  test.runIf(kernel)('B63: a connection that another program’s rules redirect to the port of a rule is carried', async () => {
    w.host.run(`nft 'table ip other { chain pre { type nat hook prerouting priority -110; tcp dport 80 redirect to :10001; }; }'`);
    try {
      expect(await greeting(w.outside, 'tcp', HOST, 80)).toBe(`vm1 sees ${GW}`);
    } finally {
      w.host.run('nft delete table ip other');
    }
  });
});
