/**
 * Reachability: every type of card to every peer, by TCP, UDP and ICMP (B12–B16, B20, B91). The table below lists all
 * that is allowed; each cell is tried with real packets. An isolated card (`--no-local`) is marked by `-`.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RemoteEngine } from '../world/remote-engine.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';
import { dhcp, guest, nic, serve, state, vmId } from './guest-tools.ts';

const why = missing('root', 'netns');

/**
 * Rows begin, columns answer. y = by TCP, UDP and ICMP; . = by none of them. internet 198.51.100.1, behind the router
 * outside 10.9.0.1, a machine of the host's own network gateway the host's address on the row's network (on 10.9.0.0/24
 * its bridge br0) host the host's address on the outside network, 10.9.0.2 A bridge card is one more machine of the
 * outside network: shared cards reach it by NAT, as they reach all others there. The outside knows the ways to the VMs'
 * networks through the host: what it does not reach, it is kept from.
 */
const EXPECTED = `
              internet outside gateway host shared shared2 shared- host-vm host-vm2 host-vm- bridge bridge2 bridge- disconnected
shared        y        y       y       y    y      y       .       .       .        .        y      y       .       .
shared-       y        y       .       .    .      .       y       .       .        .        y      y       .       .
host-vm       .        .       y       y    .      .       .       y       y        .        .      .       .       .
host-vm-      .        .       .       .    .      .       .       .       .        y        .      .       .       .
bridge        y        y       y       y    .      .       .       .       .        .        y      y       .       .
bridge-       y        y       .       .    .      .       .       .       .        .        .      .       y       .
disconnected  .        .       .       .    .      .       .       .       .        .        .      .       .       y
outside       y        y       .       y    .      .       .       .       .        .        y      y       y       .
the-host      y        y       y       y    y      y       .       y       y        .        y      y       .       .
`;

type Verdict = 'y' | '.';
const [head, ...rows] = EXPECTED.trim()
  .split('\n')
  .map((l) => l.trim().split(/\s+/)) as [string[], ...string[][]];
const cells = rows.flatMap(([from, ...verdicts]) => verdicts.map((v, i) => ({ from: from as string, to: head[i] as string, verdict: v as Verdict })));

/** Cards by the names of the table: their number and what they are. */
const CARDS: Record<string, { n: number; type: Parameters<typeof nic>[1]; isolated?: boolean }> = {
  shared: { n: 1, type: 'shared' },
  shared2: { n: 2, type: 'shared' },
  'shared-': { n: 3, type: 'shared', isolated: true },
  'host-vm': { n: 4, type: 'host' },
  'host-vm2': { n: 5, type: 'host' },
  'host-vm-': { n: 6, type: 'host', isolated: true },
  bridge: { n: 7, type: 'bridge' },
  bridge2: { n: 8, type: 'bridge' },
  'bridge-': { n: 9, type: 'bridge', isolated: true },
  disconnected: { n: 0, type: 'disconnected' },
};

describe.skipIf(why !== null)(`the matrix${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let e: RemoteEngine;
  const spaces = new Map<string, Namespace>();
  const addresses = new Map<string, string>([
    ['internet', '198.51.100.1'],
    ['outside', '10.9.0.1'],
    ['host', '10.9.0.2'],
  ]);
  /** Per source: destination → protocols that were answered. */
  const reached = new Map<string, Map<string, string>>();

  const addressOf = (from: string, to: string): string => {
    if (to !== 'gateway') return addresses.get(to) as string;
    const type = CARDS[from]?.type;
    return type === 'host' ? '192.168.128.1' : type === 'shared' || from === 'the-host' || from === 'outside' ? '192.168.64.1' : '10.9.0.2';
  };

  /** Tries all of one row at once, and failures again, so that a slow machine does not decide. */
  async function row(from: string): Promise<Map<string, string>> {
    const targets = Object.fromEntries(head.map((to) => [to, addressOf(from, to)]));
    const program = `
      const net = require('net'), dgram = require('dgram'), { execFile } = require('child_process');
      const tcp = (a) => new Promise((r) => { const s = net.connect({ host: a, port: 8080 }); s.setTimeout(1500, () => { s.destroy(); r(0); }); s.on('error', () => r(0)); s.once('data', () => { s.destroy(); r(1); }); });
      const udp = (a) => new Promise((r) => { const u = dgram.createSocket('udp4'); let n = 0; const t = setInterval(() => { if (n++ === 4) { clearInterval(t); u.close(); r(0); } else u.send('x', 8080, a, () => {}); }, 350); u.on('error', () => {}); u.on('message', () => { clearInterval(t); u.close(); r(1); }); });
      const icmp = (a) => new Promise((r) => execFile('ping', ['-c2', '-i0.3', '-W1', '-q', a], (e) => r(e ? 0 : 1)));
      const targets = ${JSON.stringify(targets)};
      Promise.all(Object.entries(targets).map(async ([to, a]) => { const v = await Promise.all([tcp(a), udp(a), icmp(a)]); return [to, ['tcp', 'udp', 'icmp'].filter((_, i) => v[i]).join(' ')]; })).then((all) => console.log(JSON.stringify(all)));`;
    const child = (spaces.get(from) as Namespace).spawn([process.execPath, '-e', program]);
    let out = '';
    child.stdout?.on('data', (d: Buffer) => {
      out += d.toString();
    });
    await new Promise((resolve) => child.on('close', resolve));
    return new Map(JSON.parse(out) as [string, string][]);
  }

  beforeAll(async () => {
    w = new World('tm-');
    // the outside interface is already in a bridge of the user
    w.host.run(
      'ip link add br0 type bridge stp_state 0 forward_delay 0; ip link set en0 master br0; ip addr flush dev en0; ip addr add 10.9.0.2/24 dev br0; ip link set br0 up; ip route replace default via 10.9.0.1',
    );
    spaces.set('outside', w.outside).set('the-host', w.host);
    e = new RemoteEngine(w, 'kernel');
    for (const [name, c] of Object.entries(CARDS)) spaces.set(name, guest(w, c.n));
    const nics = Object.values(CARDS).map((c) => nic(c.n, c.type, { isolated: c.isolated ?? false, ...(c.type === 'bridge' ? { bridge: 'br0' } : {}) }));
    expect(await e.apply(state(...nics))).toEqual([]);
    await Promise.all([
      // one socket per address, so that UDP answers leave from the address that was asked
      serve(w.outside, 8080, 'outside', '10.9.0.1'),
      serve(w.outside, 8080, 'internet', '198.51.100.1'),
      ...[...spaces].filter(([name]) => name !== 'outside').map(([name, ns]) => serve(ns, 8080, name)),
    ]);
    for (const [name, c] of Object.entries(CARDS)) {
      const ns = spaces.get(name) as Namespace;
      if (c.type === 'shared' || c.type === 'host') addresses.set(name, (await dhcp(w, ns))?.ip ?? '');
      else {
        // bridge: the outside network's business; disconnected: what it would have on shared
        const [ip, router] = c.type === 'bridge' ? [`10.9.0.${50 + c.n}`, '10.9.0.1'] : ['192.168.64.250', '192.168.64.1'];
        ns.run(`ip addr add ${ip}/24 dev eth0; ip route add default via ${router}`);
        addresses.set(name, ip);
      }
    }
    await until('the engine knows all addresses', async () => {
      const nicsNow = (await e.observe()).nics;
      return Object.values(CARDS).every((c) => (c.type !== 'shared' && c.type !== 'host') || nicsNow.find((x) => x.id === vmId(c.n))?.ip);
    });
    for (const [from] of rows) reached.set(from as string, await row(from as string));
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('the table has every type and every peer', () => {
    expect(new Set(rows.map((r) => r.length))).toEqual(new Set([head.length + 1]));
    expect(cells).toHaveLength(9 * 14);
  });

  test.each(cells)('$from to $to: $verdict', async ({ from, to, verdict }) => {
    const wanted = verdict === 'y' ? 'tcp udp icmp' : '';
    for (let again = 0; again < 5 && verdict === 'y' && reached.get(from)?.get(to) !== wanted; again++) reached.set(from, await row(from));
    expect(reached.get(from)?.get(to)).toBe(wanted);
  });
});
