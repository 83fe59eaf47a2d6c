/**
 * How long a guest's connections live, on both engines, and how many it may have on the kernel engine (RFC 4787, 5382,
 * 5508, 7857).
 *
 * Nothing waits for minutes: the host's own times for connections are set to one second, so that an answer after three
 * shows that a guest's connections do not have them. Which times they have is read from the kernel's table.
 */
import type { ChildProcess } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ListedConnection } from '../../src/host/netlink/connection-list.ts';
import { parseIpv4 } from '../../src/wire/address.ts';
import { dhcp, flow, greet, greeting, guest, macText, nic, rule, serve, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';

const SUITES = onBothEngines('NAT, ');
const INTERNET = '198.51.100.1';
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** Outside, these ports never answer. */
const SILENT = 7900;

/** One second for whatever no table of ours decides. */
const SHORT_TIMES = [
  ...['udp_timeout', 'udp_timeout_stream', 'tcp_timeout_syn_sent', 'tcp_timeout_established', 'tcp_timeout_fin_wait', 'tcp_timeout_close_wait'],
  ...['tcp_timeout_last_ack', 'tcp_timeout_time_wait', 'tcp_timeout_close', 'tcp_timeout_max_retrans', 'tcp_timeout_unacknowledged'],
].map((name) => `net.netfilter.nf_conntrack_${name}=1`);

/** TCP and UDP 7001: answer three seconds after the client's last byte, or its datagram. 7002 echoes, 7003 waits. */
const SERVER = `
import socket, threading, time
def serve_tcp(port, serve):
    s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('', port)); s.listen(64)
    while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
def late(c):
    while c.recv(4096): pass
    time.sleep(3); c.sendall(b'late'); c.close()
def hold(c):
    while c.recv(4096): pass
    threading.Event().wait()
def echo(c):
    try:
        while True:
            b = c.recv(4096)
            if not b: break
            c.sendall(b)
    except OSError: pass
    c.close()
def late_udp(s):
    while True:
        data, peer = s.recvfrom(4096)
        if data == b'now': s.sendto(data, peer)
        else: threading.Timer(3, s.sendto, (data, peer)).start()
threading.Thread(target=serve_tcp, args=(7001, late), daemon=True).start()
threading.Thread(target=serve_tcp, args=(7002, echo), daemon=True).start()
threading.Thread(target=serve_tcp, args=(7003, hold), daemon=True).start()
for address in ('${INTERNET}', '10.9.0.1', ''):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try: s.bind((address, 7001)); threading.Thread(target=late_udp, args=(s,), daemon=True).start()
    except OSError: pass
print('ready', flush=True); threading.Event().wait()
`;

/** argv: address, late port, echo port. Three answers that come late. */
const CLIENT = `
import socket, sys, threading, time
address, late, echo = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
answers = []
def answer(name, ask):
    try: answers.append(name + ' ' + ask().decode())
    except OSError as e: answers.append(name + ' ' + type(e).__name__)
def half_closed():
    s = socket.create_connection((address, late), 60); s.sendall(b'x'); s.shutdown(1); return s.recv(9)
def idle():
    s = socket.create_connection((address, echo), 60); s.sendall(b'a'); s.recv(1); time.sleep(3); s.sendall(b'idle'); return s.recv(9)
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60); s.sendto(b'late', (address, late)); return s.recv(9)
all = [threading.Thread(target=answer, args=x) for x in (('half-closed', half_closed), ('idle', idle), ('udp', udp))]
for t in all: t.start()
for t in all: t.join()
print(*answers, sep='\\n')
`;
const LATE = ['half-closed late', 'idle idle', 'udp late'];

/** Opens connections in all states and keeps them; the destination's port says which. Sends again for each line. */
const STATES = `
import socket, struct, sys
def tcp(port, local): s = socket.socket(); s.bind(('', local)); s.connect(('${INTERNET}', port)); s.sendall(b'x'); return s
def udp(port, data): s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60); s.sendto(data, ('${INTERNET}', port)); return s
answered, silent, name = udp(7001, b'now'), udp(${SILENT}, b'x'), udp(53, b'x')
answered.recv(9)
opening = socket.socket(); opening.setblocking(False); opening.connect_ex(('${INTERNET}', ${SILENT}))
open = tcp(7002, 5001); open.recv(1)
half = tcp(7003, 5002); half.shutdown(1)
closed = tcp(7002, 5003); closed.recv(1); closed.shutdown(1); closed.recv(1); closed.close()
reset = tcp(7002, 5004); reset.recv(1); reset.setsockopt(1, 13, struct.pack('ii', 1, 0)); reset.close()
print('ready', flush=True)
for line in sys.stdin:
    try: answered.sendto(b'now', ('${INTERNET}', 7001)); answered.recv(9); silent.sendto(b'x', ('${INTERNET}', ${SILENT})); name.sendto(b'x', ('${INTERNET}', 53)); open.sendall(b'y'); open.recv(1); print('ok', flush=True)
    except OSError as e: print(type(e).__name__, flush=True)
`;

/** Sends a segment of a connection that nobody knows, with the flags of argv 1; prints what comes back, or nothing. */
const STRAY = `
import socket, struct, sys
flags = int(sys.argv[1], 0)
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 6); s.connect(('${INTERNET}', ${SILENT})); s.settimeout(float(sys.argv[2]))
head = struct.pack('!HHIIBBHHH', 5999, ${SILENT}, 1000, 2000, 5 << 4, flags, 1024, 0, 0)
total = socket.inet_aton(s.getsockname()[0]) + socket.inet_aton('${INTERNET}') + struct.pack('!BBH', 0, 6, 20) + head
n = sum(struct.unpack('!%dH' % (len(total) // 2), total)); n = (n & 0xffff) + (n >> 16); n = (n & 0xffff) + (n >> 16)
s.send(head[:16] + struct.pack('!H', ~n & 0xffff) + head[18:])
try:
    while True:
        p = s.recv(999); t = p[(p[0] & 15) * 4:]
        if struct.unpack('!H', t[2:4])[0] == 5999: print('RST' if t[13] & 4 else 'other', struct.unpack('!I', t[4:8])[0]); break
except socket.timeout: print('nothing')
`;

/** Sends a "port unreachable" about a datagram of nobody. */
const STRAY_ERROR = `
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); s.connect(('${INTERNET}', 0))
own, peer = socket.inet_aton(s.getsockname()[0]), socket.inet_aton('${INTERNET}')
quoted = struct.pack('!BBHHHBBH', 69, 0, 28, 0, 0, 64, 17, 0) + peer + own + struct.pack('!HHHH', 5998, 5999, 8, 0)
m = struct.pack('!BBHI', 3, 3, 0, 0) + quoted
n = sum(struct.unpack('!%dH' % (len(m) // 2), m)); n = (n & 0xffff) + (n >> 16); n = (n & 0xffff) + (n >> 16)
s.send(m[:2] + struct.pack('!H', ~n & 0xffff) + m[4:]); print('sent')
`;

/**
 * Opens UDP flows: argv 1 to different ports each from two sockets. Then opens TCP connections until one is refused, or
 * 3000 are open.
 */
const GREEDY = `
import errno, select, socket, sys
for n in range(2):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for i in range(int(sys.argv[1])): s.sendto(b'x', ('${INTERNET}', 10000 + i))
all = []
for i in range(3000):
    c = socket.socket(); c.setblocking(False); c.connect_ex(('${INTERNET}', ${SILENT})); all.append(c)
    if i % 100 < 99: continue
    failed = [x.getsockopt(1, 4) for x in select.select([], all[-100:], [], 0.1)[1]]
    if failed: print(errno.errorcode[failed[0]]); break
else: print('none refused')
`;

describe.each(SUITES)('%s', (_suite, { kind, why }) => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  let address = '';
  const wanted = (...more: ReturnType<typeof rule>[]) =>
    state(nic(1, 'shared', { rules: [rule(17_001, 7001), rule(17_002, 7002), rule(17_001, 7001, 'udp'), ...more] }), nic(2));

  beforeEach((context) => context.skip(why !== null));

  const programs = new Map<string, string>();
  /** Written once: another process may be about to read it. */
  const program = (text: string): string => {
    const known = programs.get(text);
    if (known !== undefined) return known;
    const path = join(w.dir, `program${programs.size}.py`);
    writeFileSync(path, text);
    programs.set(text, path);
    return path;
  };
  const python = async (ns: Namespace, text: string, ...args: (string | number)[]): Promise<string> =>
    ((await ns.ask(`python3 ${program(text)} ${args.join(' ')}`)) ?? 'the program failed').trim();
  const start = async (ns: Namespace, text: string): Promise<{ child: ChildProcess; next: () => Promise<string> }> => {
    const child = ns.spawn(['python3', program(text)]);
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
    const next = async (): Promise<string> => (await lines.next()).value as string;
    expect(await next()).toBe('ready');
    return { child, next };
  };
  /** What the addresses have opened, by the kernel's table. */
  const connections = async (...args: string[]): Promise<ListedConnection[]> =>
    JSON.parse((await w.host.ask(`cd ${ROOT} && ${process.execPath} --import tsx test/world/connections-process.ts ${args.join(' ')}`)) ?? 'null');

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('na-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    if (kind === 'kernel') [vm1, vm2] = [guest(w, 1), guest(w, 2)];
    e = new RemoteEngine(w, kind);
    expect(await e.apply(wanted())).toEqual([]);
    if (kind === 'user') vm1 = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
    address = (await dhcp(w, vm1))?.ip ?? '';
    w.outside.run(`nft add table ip silent; nft add chain ip silent in "{ type filter hook prerouting priority -300; }"`);
    w.outside.run(
      `nft add rule ip silent in ip daddr ${INTERNET} meta l4proto { tcp, udp } th dport "{ 53, ${SILENT}, 10000-30000 }" counter drop; nft add rule ip silent in ip saddr 192.168.0.0/16 counter drop; nft add rule ip silent in ip daddr ${INTERNET} icmp type destination-unreachable counter`,
    );
    if (kind === 'kernel') w.host.run(`sysctl -qw ${SHORT_TIMES.join(' ')}`);
    await start(w.outside, SERVER);
    await start(vm1, SERVER);
    await until('outside is reached', () => vm1.pings(INTERNET));
    await until('the rules are open', async () => (await e.observe()).nics[0]?.rules.every((r) => r.active));
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('RFC 4787 REQ-5, RFC 5382 REQ-5: answers come through after a silence, of the guest and of its clients', async () => {
    const from = (ns: Namespace, to: string, late: number, echo: number) => python(ns, CLIENT, to, late, echo).then((out) => out.split('\n').sort());
    const got = await Promise.all([
      from(vm1, INTERNET, 7001, 7002),
      from(w.outside, '10.9.0.2', 17_001, 17_002),
      from(w.host, '10.9.0.2', 17_001, 17_002),
      from(w.host, '127.0.0.1', 17_001, 17_002),
    ]);
    expect(got).toEqual([LATE, LATE, LATE, LATE]);
  });

  test('RFC 9293 3.10.7.1, RFC 5508 REQ-5: a segment of an unknown connection gets a reset and opens none; nothing leaves untranslated', async () => {
    const ACK = 0x10;
    expect(await python(vm1, STRAY, ACK, 60)).toBe('RST 2000');
    expect(await python(vm1, STRAY, ACK | 8, 60)).toBe('RST 2000');
    // FIN: the kernel engine cannot tell it from one outside the window of a connection, and drops it
    expect(await python(vm1, STRAY, ACK | 1, kind === 'kernel' ? 1 : 60)).toBe(kind === 'kernel' ? 'nothing' : 'RST 2000');
    expect(await python(vm1, STRAY_ERROR)).toBe('sent');
    // sent later, so what the others sent has arrived
    await vm1.reaches(INTERNET);
    expect(w.outside.run('nft list chain ip silent in').match(/packets \d+/g)).toEqual(['packets 0', 'packets 0', 'packets 0']);
  });

  describe.skipIf(kind === 'user')('the kernel’s table', () => {
    const key = (c: ListedConnection): string => `${c.protocol === 17 ? 'udp' : c.state} ${c.destinationPort}`;

    test('RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 7857 2.1, 2.2: times in minutes, which survive new rules and a new daemon', async () => {
      await connections('cut', address);
      const { child, next } = await start(vm1, STATES);
      const due = new Map([
        ['udp 7001', 300],
        [`udp ${SILENT}`, 300],
        ['udp 53', 30],
        ['established 7002', 432_000],
        ['close_wait 7003', 7440],
        [`syn_sent ${SILENT}`, 240],
        ['time_wait 7002', 240],
        ['close 7002', 240],
      ]);
      const again = async (): Promise<string> => {
        child.stdin?.write('again\n');
        return next();
      };
      /** Those of these connections that have another time, or are not listed. */
      const wrong = async (keys: readonly string[]): Promise<string[]> => {
        expect(await again()).toBe('ok');
        const all = new Map((await connections(address)).map((c) => [key(c), c.expires]));
        return keys.flatMap((k) =>
          (all.get(k) ?? 0) > (k === 'udp 53' ? 0 : (due.get(k) ?? 0) / 2) && (all.get(k) ?? 0) <= (due.get(k) ?? 0) ? [] : [`${k}: ${all.get(k)}`],
        );
      };
      await until('all states and times are as due', async () => (await wrong([...due.keys()])).length === 0, 300_000);
      const lasting = ['udp 7001', `udp ${SILENT}`, 'established 7002', 'close_wait 7003'];
      expect(await e.apply(wanted(rule(17_009, 9)))).toEqual([]);
      expect(await wrong(lasting)).toEqual([]);
      await e.kill();
      e = new RemoteEngine(w, 'kernel');
      expect(await e.apply(wanted())).toEqual([]);
      expect(await wrong(lasting)).toEqual([]);
      // expired, as it were: what the guest still sends is no new connection
      await connections('cut', address);
      expect(await again()).toBe('ConnectionResetError');
      expect((await connections(address)).filter((c) => c.destinationPort === 7002)).toEqual([]);
      child.kill();
    });

    test('a guest has 24,576 connections at most: more are refused by ICMP, counted and explained; others are not affected', async () => {
      await serve(w.outside, 8080, 'outside');
      await dhcp(w, vm2);
      const older = await flow(vm1, INTERNET, 8080);
      expect(await python(vm1, GREEDY, 19_000)).toBe('EHOSTUNREACH');
      const open = (await connections(address)).length;
      expect(open).toBeGreaterThan(16_384);
      expect(open).toBeLessThan(24_576 + 100);
      const attempt = { protocol: 'tcp' as const, source: null, sourcePort: null, destination: parseIpv4(INTERNET) as number, port: 80 };
      const rules = async () => (await e.explain(vmId(1), attempt)).steps.map((s) => s.rule);
      expect(await rules()).toContain('connection_limit');
      expect((await e.stats()).find((s) => s.id === vmId(1))?.drops['connection_limit']).toBeGreaterThan(0);
      expect(await greeting(vm2, 'tcp', INTERNET, 8080)).toBe('outside sees 10.9.0.2');
      expect((await vm1.ask('dig +short @192.168.64.1 host.anka.internal'))?.trim(), 'names are not counted').toBe('192.168.64.1');
      const { bytes } = await older.echoed();
      await until('the older connection continues', async () => (await older.echoed()).bytes > bytes);
      older.stop();
      await connections('cut', address);
      await until('the guest may connect again', async () => (await greet(vm1, 'tcp', INTERNET, 8080)) === 'outside sees 10.9.0.2');
      expect(await rules()).not.toContain('connection_limit');
    });
  });
});
