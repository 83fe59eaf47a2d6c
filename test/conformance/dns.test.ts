/**
 * DNS for every peer: guests that pipeline, and upstream servers with habits (RFC 1035, 2308, 4343, 5452, 6891, 7766),
 * on both engines.
 */
import type { ChildProcess } from 'node:child_process';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, guest, macText, nic, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';

const GW = '192.168.64.1';
const SERVERS = fileURLToPath(new URL('dns-servers.mjs', import.meta.url));
/** Sends queries by one TCP connection at once, and prints the names in the order of the answers. */
const PIPELINE = `
import socket, sys
def q(i, n):
  m = bytes([i >> 8, i & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + b''.join(bytes([len(l)]) + l.encode() for l in n.split('.')) + b'\\0\\0\\1\\0\\1'
  return len(m).to_bytes(2, 'big') + m
names = sys.argv[2:]
s = socket.create_connection((sys.argv[1], 53), 60)
s.sendall(b''.join(q(i, n) for i, n in enumerate(names)))
f = s.makefile('rb')
for _ in names:
  m = f.read(int.from_bytes(f.read(2), 'big'))
  print(names[int.from_bytes(m[:2], 'big')], m[3] & 15)
`;

/** Opens a TCP connection, asks nothing, and prints how long it stays open, in seconds. */
const IDLE = `
import socket, sys, time
s = socket.create_connection((sys.argv[1], 53), 60)
t = time.monotonic(); s.settimeout(120); s.recv(1); print(time.monotonic() - t)
`;

const SUITES = onBothEngines();

describe.each(SUITES)('%s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  let shared: Namespace;
  let host: Namespace;
  let resolvConf = '';
  const dig = async (g: Namespace, args: string, server = GW): Promise<string> =>
    ((await g.ask(`dig +time=15 +tries=1 @${server} ${args}`)) ?? 'failed').trim();
  const short = (args: string): Promise<string> => dig(shared, `+short ${args}`);
  /** Makes a server with a habit the only one of the host, and waits until it is used. */
  const use = async (address: string, habit: string, ns: Namespace = w.outside): Promise<ChildProcess> => {
    const child = ns.spawn(['node', SERVERS, address, habit]);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    w.setResolver(address);
    await until(`${habit} is used`, async () => (await e.doctor()).every((f) => f.id !== 'resolver.outdated'));
    return child;
  };
  /** Queries on one TCP connection at once; returns names and response codes in the order of the answers. */
  const pipeline = async (names: readonly string[]): Promise<string[]> =>
    ((await shared.ask(`python3 ${join(w.dir, 'pipeline.py')} ${GW} ${names.join(' ')}`)) ?? '').trim().split('\n');
  let idle: Promise<string | null>;

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('td-');
    resolvConf = `/etc/netns/${w.prefix}host/resolv.conf`;
    writeFileSync(`/etc/netns/${w.prefix}host/hosts`, '127.0.0.1 localhost\n10.9.0.77 nas.lan nas\n');
    writeFileSync(join(w.dir, 'pipeline.py'), PIPELINE);
    writeFileSync(join(w.dir, 'idle.py'), IDLE);
    // outside answers at several addresses
    for (const n of [11, 12, 13, 14, 15, 16, 17, 18]) w.outside.run(`ip addr add 10.9.0.${n}/24 dev ext0`);
    const desired = state(nic(1), nic(2, 'host'));
    e = new RemoteEngine(w, t.kind);
    if (t.kind === 'kernel') [shared, host] = [guest(w, 1), guest(w, 2)];
    expect(await e.apply(desired)).toEqual([]);
    if (t.kind === 'user') {
      shared = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
      host = await shimmedGuest(w, 'g2', macText(2), (await e.openNic(vmId(2))).path);
    }
    await dhcp(w, shared);
    await dhcp(w, host);
    idle = shared.ask(`python3 ${join(w.dir, 'idle.py')} ${GW}`);
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('RFC 4343, 3: a server that returns the question in lower case is used; a server that keeps it, too', async () => {
    await use('10.9.0.11', 'lower');
    expect(await short('Mixed-Case.Example.Test')).toBe('203.0.113.7');
    expect(await dig(shared, 'Mixed-Case.Example.Test'), 'the guest gets its own case').toMatch(/^;Mixed-Case\.Example\.Test\./m);
    await use('10.9.0.12', 'slow');
    expect(await short('Other-Case.Example.Test')).toBe('203.0.113.7');
  });

  test('RFC 7766, 6.2.1.1: 200 queries on one connection are all answered, each as soon as its answer is there', async () => {
    const names = ['slow.example.test', ...Array.from({ length: 199 }, (_, i) => (i % 2 ? `n${i}.example.test` : 'vm1.anka.internal'))];
    const lines = await pipeline(names);
    expect(lines.map((l) => l.split(' ')[0]).sort()).toEqual([...names].sort());
    expect(new Set(lines.map((l) => l.split(' ')[1]))).toEqual(new Set(['0']));
    expect(lines.at(-1), 'out of order').toBe('slow.example.test 0');
  });

  test('RFC 7766, 5: a query by TCP is answered although the server refuses TCP; one lost datagram costs two seconds', async () => {
    await use('10.9.0.13', 'refuses-tcp');
    expect(await short('+tcp by-udp.example.test')).toBe('203.0.113.7');
    await use('10.9.0.14', 'once');
    expect(await short('lost.example.test')).toBe('203.0.113.7');
  });

  test('a resolver at a link-local IPv6 address with a zone is used', async () => {
    const address = JSON.parse(w.outside.run('ip -j -6 addr show dev ext0 scope link'))[0].addr_info[0].local as string;
    await until('no duplicate address detection', () => !w.outside.run('ip -6 addr show dev ext0; true').includes('tentative'));
    const child = w.outside.spawn(['node', SERVERS, `${address}%ext0`, 'plain']);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    w.setResolver(`${address}%en0`);
    await until('it is used', async () => (await short('six.example.test')) === '203.0.113.7');
    expect(await short('+tcp six.example.test')).toBe('203.0.113.7');
  });

  test('RFC 2308, 2 and RFC 6891, 6.1.1: negative answers of our own have SOA and OPT; errors have their codes', async () => {
    const nx = await dig(shared, '+edns +dnssec nobody.anka.internal');
    expect(nx).toMatch(/status: NXDOMAIN/);
    expect(nx).toMatch(/EDNS: version: 0, flags: do; udp: 1232/);
    expect(nx).toMatch(/^anka\.internal\.\s+5\s+IN\s+SOA/m);
    expect(await dig(shared, 'vm1.anka.internal TXT')).toMatch(/status: NOERROR[\s\S]*ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1/);
    expect(await dig(shared, '+noedns nobody.anka.internal')).toMatch(/AUTHORITY: 1, ADDITIONAL: 0/);
    expect(await dig(shared, '+edns=1 +noednsneg vm1.anka.internal')).toMatch(/status: BADVERS/);
    expect(await dig(shared, 'version.bind TXT CH')).toMatch(/status: REFUSED/);
    expect(await dig(shared, '+opcode=status vm1.anka.internal')).toMatch(/status: NOTIMP/);
    expect(await dig(shared, '+notcp vm1.anka.internal ANY')).toMatch(/192\.168\.64\./);
    expect(await dig(shared, '-x 127.0.0.9')).toMatch(/status: NXDOMAIN[\s\S]*SOA/);
  });

  test('RFC 6891, 6.1.2: options that are not understood are ignored', async () => {
    const answer = await dig(shared, '+ednsopt=65001:00ff +ednsopt=65002 vm1.anka.internal');
    expect(answer).toMatch(/status: NOERROR/);
    expect(answer).not.toMatch(/OPT=6500/);
  });

  test('RFC 1035, 4.2.1 and RFC 7766, 5: a truncated answer of a server is passed on, and the retry by TCP is answered', async () => {
    await use('10.9.0.15', 'truncates');
    expect(await dig(shared, '+ignore large.example.test')).toMatch(/flags:[^;]* tc[ ;]/);
    expect(await short('large.example.test')).toBe('203.0.113.7');
  });

  test('RFC 2308, 6 and RFC 6891, 7: negative answers with their SOA, and FORMERR of a server without EDNS, are passed on', async () => {
    await use('10.9.0.16', 'negative');
    expect(await dig(shared, '+noedns no.example.test')).toMatch(/status: NXDOMAIN[\s\S]*^\.\s+900\s+IN\s+SOA\s.* 77$/m);
    expect(await dig(shared, '+edns +nobadcookie +noednsnegotiation old.example.test')).toMatch(/status: FORMERR/);
  });

  test('RFC 7766, 6.2.4: queries on a connection that the server closes are asked again by another', async () => {
    await use('10.9.0.17', 'closes');
    const names = Array.from({ length: 8 }, (_, i) => `c${i}.example.test`);
    expect((await pipeline(names)).sort()).toEqual(names.map((n) => `${n} 0`));
  });

  test('RFC 5452, 9.2: queries leave from many ports, several of them in use at a time', async () => {
    const child = await use('10.9.0.18', 'ports');
    const ports = new Set<string>();
    child.stdout?.on('data', (d: Buffer) => {
      for (const port of d.toString().trim().split('\n')) ports.add(port);
    });
    const names = Array.from({ length: 60 }, (_, i) => `p${i}.example.test`);
    await shared.ask(`for n in ${names.join(' ')}; do dig +short @${GW} $n & done; wait`);
    expect(ports.size).toBeGreaterThanOrEqual(4);
    expect(Math.max(...[...ports].map(Number)) - Math.min(...[...ports].map(Number)), 'not one after the other').toBeGreaterThan(ports.size);
  });

  test('RFC 7766, 6.2.3: an idle connection is closed after seconds', async () => {
    expect(Number(await idle)).toBeGreaterThan(9);
  });

  test('names of the hosts file are answered on shared by `dns_hosts`, follow the file, and are never known on host', async () => {
    expect(await short('NAS.lan')).toBe('10.9.0.77');
    expect(await short('-x 10.9.0.77')).toBe('nas.lan.');
    expect(await dig(shared, 'nas AAAA')).toMatch(/status: NOERROR[\s\S]*SOA/);
    expect(await short(`${w.host.run('hostname').trim()}`)).toBe(GW);
    expect(await dig(host, 'nas.lan', '192.168.128.1')).toMatch(/status: NXDOMAIN/);
    writeFileSync(`/etc/netns/${w.prefix}host/hosts`, '10.9.0.78 nas.lan\n');
    await until('the change is seen', async () => (await short('nas.lan')) === '10.9.0.78');
    await e.apply({ ...state(nic(1), nic(2, 'host')), dnsHosts: false });
    expect(await short('nas.lan'), 'off: forwarded').toBe('203.0.113.7');
    await e.apply(state(nic(1), nic(2, 'host')));
  });

  test('RFC 3397: a guest of shared gets the search list of the host, one of host does not', async () => {
    writeFileSync(resolvConf, 'nameserver 10.9.0.12\nsearch corp.example lab.example\n');
    const script = join(w.dir, 'search.sh');
    writeFileSync(script, '#!/bin/sh\n[ "$1" = bound ] && echo "SEARCH $search"\nexit 0\n', { mode: 0o755 });
    const ask = async (g: Namespace): Promise<string> => (await g.ask(`udhcpc -f -q -n -t 300 -T 1 -O search -i eth0 -s ${script} 2>/dev/null`)) ?? '';
    await until('the list is known', async () => (await ask(shared)).includes('SEARCH anka.internal corp.example lab.example'));
    expect((await ask(host)).trim()).toBe('SEARCH anka.internal');
  });

  // the user engine's daemon and process are the same user here; the code is the same
  test.skipIf(t.kind === 'user')('resolv.conf moves to where only the daemon may read it, and is followed there', async () => {
    chmodSync(resolvConf, 0o600);
    w.setResolver('10.9.0.11');
    await until('it is followed', async () => (await e.doctor()).every((f) => f.id !== 'resolver.outdated'));
    expect(await short('moved.example.test')).toBe('203.0.113.7');
    w.setResolver('10.9.0.12');
    await until('a second change, too', async () => (await e.doctor()).every((f) => f.id !== 'resolver.outdated'));
    chmodSync(resolvConf, 0o644);
  });
});
