/**
 * One guest exhausts what the gateway serves, addresses and names, and another is still served. Both engines.
 *
 * The greedy guest uses packet sockets (greedy.py) or a frame generator (bench/frames.c); the other udhcpc and dig,
 * with enough tries for losses in the queues of two guests that share one kernel.
 */
import type { ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { formatIpv4 } from '../../src/wire/address.ts';
import { compiled } from '../world/compile.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';
import { dhcp, guest, macText, nic, serve, state, vmId } from './guest-tools.ts';

const SUITES = onBothEngines();
const GW = '192.168.64.1';
const OUTSIDE = '198.51.100.1';
const GREEDY = fileURLToPath(new URL('greedy.py', import.meta.url));

/** A resolver that answers only names that begin with `quick`, by UDP and TCP. */
const UPSTREAM = `
  const answer = (q) => { const end = q.indexOf(0, 12) + 5; if (q.subarray(13, 18).toString() !== 'quick') return null;
    const a = Buffer.concat([q.subarray(0, end), Buffer.from('c00c000100010000003c0004cb007107', 'hex')]); a.writeUInt16BE(0x8180, 2); a.writeUInt16BE(1, 6); a.writeUInt32BE(0, 8); return a; };
  const u = require('dgram').createSocket({ type: 'udp4', recvBufferSize: 4 << 20 }); u.on('message', (q, r) => { const a = answer(q); if (a) u.send(a, r.port, r.address); });
  require('net').createServer((c) => { c.on('error', () => {}); c.on('data', (d) => { const a = answer(d.subarray(2)); if (!a) return; const n = Buffer.alloc(2); n.writeUInt16BE(a.length); c.write(Buffer.concat([n, a])); }); })
    .listen(53, '10.9.0.1', () => u.bind(53, '10.9.0.1', () => console.log('ready')));`;

describe.each(SUITES)('one guest exhausts the services: %s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  const vms: Namespace[] = [];
  let greedy: ChildProcess | null = null;
  let said = '';

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('gr-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    const all = [1, 2, 3, 4, 5];
    if (t.kind === 'kernel') for (const n of all) vms.push(guest(w, n));
    e = new RemoteEngine(w, t.kind);
    expect(await e.apply(state(...all.map((n) => nic(n))))).toEqual([]);
    if (t.kind === 'user') for (const n of all.slice(0, 4)) vms.push(await shimmedGuest(w, `g${n}`, macText(n), (await e.openNic(vmId(n))).path));
    const upstream = w.outside.spawn([process.execPath, '-e', UPSTREAM]);
    await new Promise((ready) => upstream.stdout?.once('data', ready));
    await serve(w.outside, 8080, 'outside');
    for (const n of [0, 1]) expect(await dhcp(w, vms[n] as Namespace)).not.toBeNull();
    await until('both addresses are known', async () => (await e.observe()).nics.filter((x) => x.ip !== null).length === 2);
  });

  afterEach(() => {
    greedy?.kill('SIGKILL');
    greedy = null;
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  /**
   * The first guest exhausts a service until the test ends. Resolves when it has taken so much that others could be
   * starved.
   */
  const want = async (what: string): Promise<void> => {
    said = '';
    const target = what === 'neighbour' ? [macText(2), formatIpv4((await e.observe()).nics.find((x) => x.id === vmId(2))?.ip as number)] : [];
    greedy = (vms[0] as Namespace).spawn(['python3', GREEDY, what, macText(1), GW, ...target]);
    greedy.stdout?.on('data', (d: Buffer) => {
      said += d.toString();
    });
    await until(`the exhaustion has begun: ${what}`, () => said.includes('at it'));
  };
  const dig = async (n: number, args: string): Promise<string> =>
    ((await (vms[n] as Namespace).ask(`dig +short @${GW} ${args}`)) ?? 'failed').replaceAll(/^;.*\n/gm, '').trim();

  /** The second guest makes connections to the outside in sequence, and pings it. */
  const othersConnect = async (what: string): Promise<void> => {
    const program = `const took = []; const one = () => { const from = performance.now(); const s = require('net').connect(8080, '${OUTSIDE}'); s.on('error', (e) => { console.log(e.code); process.exit(); });
      s.once('data', () => { took.push(performance.now() - from); s.destroy(); if (took.length < 50) one(); else console.log('connected', took.sort((a, b) => a - b).filter((_, i) => i === 24 || i === 49).map((ms) => ms.toFixed(0)).join(' ms, at most ')); }); }; one();`;
    const connected = await (vms[1] as Namespace).ask(`${process.execPath} -e "${program}"`);
    console.info(`${what}: half of 50 connections took ${connected?.slice(10).trim()} ms`);
    expect(connected).toMatch(/^connected/);
    // a flood loses some in the queues of the kernel that both guests share
    const received = Number(/(\d+) received/.exec((await (vms[1] as Namespace).ask(`ping -c20 -i0.05 -W5 -q ${OUTSIDE}; true`)) ?? '')?.[1]);
    expect(received).toBeGreaterThanOrEqual(10);
  };

  test('names by UDP: as many unanswered queries as it can send', async () => {
    expect(await dig(1, '+time=5 +tries=9 quick0.test')).toBe('203.0.113.7');
    await want('names');
    const got: string[] = [];
    for (let i = 1; i <= 20; i++) got.push(await dig(1, `+time=2 +tries=9 quick${i}.test`));
    expect(got).toEqual(got.map(() => '203.0.113.7'));
    expect(await dig(1, '+time=2 +tries=9 host.anka.internal')).toBe(GW);
  });

  test('names by TCP: hundreds of silent connections', async () => {
    await want('connections');
    const got: string[] = [];
    for (let i = 1; i <= 10; i++) got.push(await dig(1, `+tcp +time=5 +tries=3 quick${i}.test`));
    expect(got).toEqual(got.map(() => '203.0.113.7'));
  });

  test.each([
    ['datagrams', 'one datagram over and over'],
    ['flows', 'datagrams to as many places, from as many ports'],
    ['echoes', 'echoes with as many identifiers'],
    ['names', 'as many queries for names'],
    ['flips', 'another address as its own each time'],
    ['neighbour', 'small frames for that other guest'],
  ])('connections and echoes, while it sends as fast as it can: %s', async (what, _text) => {
    await want(what);
    await othersConnect(what);
  });

  test('connections and echoes, while the other guest is flooded with small frames (user engine)', async (test) => {
    test.skip(t.kind !== 'user');
    const program = compiled(new URL('../../bench/frames.c', import.meta.url));
    const other = (await e.observe()).nics.find((x) => x.id === vmId(2))?.ip as number;
    // an address that `flips` does not claim: its last one is still held
    greedy = w.host.spawn([program, (await e.openNic(vmId(5))).path, macText(5), '192.168.64.40', '-', macText(2), formatIpv4(other), '64', '600']);
    const reached = async (): Promise<number> => (await e.stats()).find((x) => x.id === vmId(2))?.rxPackets ?? 0;
    const before = await reached();
    await until('the flood arrives', async () => (await reached()) > before + 100_000);
    await othersConnect('source of frames');
  });

  test('addresses: as many requests as it can send', async () => {
    await want('requests');
    expect(await dhcp(w, vms[1] as Namespace)).not.toBeNull();
  });

  test('addresses: it declines every offer', async () => {
    await want('declines');
    expect(await dhcp(w, vms[2] as Namespace)).not.toBeNull();
  });

  test('addresses: it claims every address by ARP', async () => {
    await want('claims');
    expect(await dhcp(w, vms[3] as Namespace)).not.toBeNull();
  });
});
