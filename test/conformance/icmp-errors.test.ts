/**
 * What guests and routers say by ICMP, on both engines: path MTUs behind a guest and outside, rejected connections,
 * forged errors, and how many errors a guest gets (RFC 1191, 1812, 5508, 5927).
 *
 * inner (10.55.0.2) ──MTU 1280── vm1 ── host ── outside ──MTU 1300── far (203.0.113.9 to .11)
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, greeting, guest, macText, nic, rule, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';

const SUITES = onBothEngines('ICMP errors and paths, ');
const INTERNET = '198.51.100.1';
const HOST = '10.9.0.2';
/** An address for each purpose, as paths are remembered by address. */
const [FAR, FAR_ECHO, FAR_UDP] = ['203.0.113.9', '203.0.113.10', '203.0.113.11'] as const;

/**
 * TCP 7100 sends as many random bytes as asked for; 7101 answers how many came, and whether they are right. TCP 7102
 * sends a byte once it waits, and 20,000 when a datagram comes to UDP 7102. UDP 7777 echoes, at the addresses in argv.
 */
const SERVER = `
import random, select, socket, sys, threading
def listen(port, serve):
    s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('', port)); s.listen(16)
    def accept():
        while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
def send(c):
    c.sendall(random.Random(1).randbytes(int(c.makefile().readline()))); c.close()
def take(c):
    got = b''.join(iter(lambda: c.recv(1 << 16), b''))
    c.sendall(b'%d %r' % (len(got), got == random.Random(1).randbytes(len(got)))); c.close()
held = []
def hold(c): held.append(c); c.sendall(b'.')
listen(7100, send); listen(7101, take); listen(7102, hold)
udp = []
for at in [('', 7102)] + [(address, 7777) for address in sys.argv[1:]]:
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.setsockopt(0, 10, 0); u.bind(at); udp.append(u)
print('ready', flush=True)
while True:
    for u in select.select(udp, [], [])[0]:
        data, peer = u.recvfrom(65535)
        if u is udp[0]: held[-1].sendall(bytes(20000))
        else: u.sendto(data, peer)
`;

const DOWNLOAD = (bytes: number): string => `
import random, socket
s = socket.create_connection(('${INTERNET}', 7100), 120); s.sendall(b'${bytes}\\n')
got = b''.join(iter(lambda: s.recv(1 << 16), b'')); print(len(got), got == random.Random(1).randbytes(len(got)))
`;
const UPLOAD = (address: string, bytes: number): string => `
import random, socket
s = socket.create_connection(('${address}', 17101), 120); s.sendall(random.Random(1).randbytes(${bytes})); s.shutdown(1)
print(s.recv(99).decode())
`;

/**
 * Takes 20,000 bytes three times. After the first time, errors with an MTU of 600 about segments that are not in
 * flight; during the third time, while nothing is acknowledged, errors about one that is: unreachable, then with an MTU
 * of 68. Prints the largest packet of the first and second time, that of the segment when it is sent again, and how
 * many bytes came.
 */
const FORGE = `
import select, socket, struct, subprocess
PEER, PORT = '${INTERNET}', 7102
c = socket.create_connection((PEER, PORT), 120); c.recv(1); me, port = c.getsockname()
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x800)); tap.bind(('eth0', 0x800)); tap.setsockopt(1, 33, 1 << 22)
icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); go = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def checksum(b):
    n = sum(struct.unpack('!%dH' % (len(b) // 2), b)); n = (n >> 16) + (n & 0xffff); return ~(n + (n >> 16)) & 0xffff
def forge(seq, mtu, code=4, size=1500):
    quoted = struct.pack('!BBHHHBBH4s4sHHI', 0x45, 0, size, 1, 0x4000, 64, 6, 0, socket.inet_aton(PEER), socket.inet_aton(me), PORT, port, seq % (1 << 32))
    m = struct.pack('!BBHHH', 3, code, 0, 0, mtu) + quoted; icmp.sendto(m[:2] + struct.pack('!H', checksum(m)) + m[4:], (PEER, 0))
def segment(wait):
    while select.select([tap], [], [], wait)[0]:
        b = tap.recv(65535); total = struct.unpack('!H', b[2:4])[0]
        if b[9] == 6 and b[20:22] == struct.pack('!H', PORT) and total > 20 + (b[32] >> 4) * 4: return total, struct.unpack('!I', b[24:28])[0]
    return None
def segments(): return iter(lambda: segment(0), None)
def receive():
    n = 0
    while n < 20000:
        b = c.recv(20000); n += len(b)
        if not b: raise EOFError
    return n
go.sendto(b'', (PEER, PORT)); got = receive(); seen = list(segments()); first = max(seen)[0]; last = max(s for _, s in seen)
for seq in (last - 5000, last + 500000, last + (1 << 31)): forge(seq, 600)
go.sendto(b'', (PEER, PORT)); got += receive(); second = max(segments())[0]
subprocess.run(['nft', 'table ip hold { chain out { type filter hook output priority 0; tcp dport 7102 drop; }; }'], check=True)
go.sendto(b'', (PEER, PORT)); total, seq = segment(120)
forge(seq, 0, code=1); forge(seq, 0, code=3); forge(seq, 68, size=total); again = total
while again == total:
    size, at = segment(120)
    if at == seq: again = size
subprocess.run(['nft', 'delete table ip hold'], check=True)
print(first, second, again, got + receive())
`;

/**
 * Three datagrams of 1,400 bytes with DF by a connected socket, twice by sockets of their own; prints which were
 * reported with which MTU, then what the last error quotes: length, DF, protocol, port, length of the datagram.
 */
const DATAGRAMS = `
import select, socket, struct, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
def errors():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 11, 1); s.setsockopt(0, 10, 3); s.connect(('${FAR}', 7777)); heard = set()
    for letter in b'abc':
        for tries in range(9): # a send fails by the error of an earlier one
            try: s.send(bytes([letter]) * 1400); break
            except OSError: pass
    end = time.monotonic() + 60; poll = select.poll(); poll.register(s, 0)
    while len(heard) < 3 and time.monotonic() < end:
        poll.poll(1000)
        try: data, control = s.recvmsg(2048, 512, 0x2040)[:2]
        except BlockingIOError: continue
        for level, name, b in control:
            if (level, name) == (0, 11): e = struct.unpack('IBBBBI', b[:12]); heard.add('%c %d %d %d' % (data[0], e[2], e[3], e[5]))
    return ', '.join(sorted(heard))
print(errors()); print(errors())
while select.select([raw], [], [], 0)[0]:
    b = raw.recv(2048)
    if b[20:22] == bytes([3, 4]): quoted = b[28:]
print(struct.unpack('!H', quoted[2:4])[0], quoted[6] >> 6, quoted[9], *struct.unpack('!HH', quoted[22:26]))
`;

/** An echo or a datagram, with DF or without; prints type, code and MTU of the error, or how many bytes came back. */
const ONE = (kind: 'echo' | 'udp', address: string, size: number, whole: boolean): string => `
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, ${kind === 'udp' ? 17 : 1}); s.settimeout(60); s.setsockopt(0, 11, 1); s.setsockopt(0, 10, ${whole ? 3 : 0})
s.connect(('${address}', 7777)); s.send(${kind === 'udp' ? "b''" : 'bytes([8, 0, 0, 0, 0, 0, 0, 1])'} + b'x' * ${size})
try: print(s.recv(65535)[${kind === 'udp' ? 0 : 8}:].count(b'x'))
except TimeoutError: print('silent')
except OSError:
    for level, name, b in s.recvmsg(2048, 512, 0x2000)[1]:
        if (level, name) == (0, 11): e = struct.unpack('IBBBBI', b[:12]); print(e[2], e[3], e[5])
`;

/** Sends 20,000 datagrams whose time to live expires at once; prints how many errors came, and in how many seconds. */
const FLOOD = `
import select, socket, time
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); raw.setsockopt(1, 33, 1 << 24)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 2, 1); begin = last = time.monotonic(); n = 0
for i in range(20000): s.sendto(b'x', ('${INTERNET}', 9))
while select.select([raw], [], [], 1)[0]:
    if raw.recv(2048)[20] == 11: n += 1; last = time.monotonic()
print(n, last - begin)
`;

describe.each(SUITES)('%s', (_suite, { kind, why }) => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  let inner: Namespace;
  let programs = 0;

  beforeEach((context) => context.skip(why !== null));

  const python = async (ns: Namespace, program: string): Promise<string> => {
    const path = join(w.dir, `program${programs++}.py`);
    writeFileSync(path, program);
    return ((await ns.ask(`python3 ${path}`)) ?? 'the program failed').trim();
  };
  const serve = async (ns: Namespace, ...echoAt: string[]): Promise<void> => {
    const child = ns.spawn(['python3', '-c', SERVER, ...echoAt]);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
  };
  /** A network behind vm1, which translates for it: port 7101 leads to it. */
  const addInner = (ip: string): void => {
    inner = w.namespace('inner');
    vm1.run(`ip link add b0 type veth peer name eth0 netns ${inner.name} && ip addr add 10.55.0.1/24 dev b0 && ip link set b0 mtu 1280 up`);
    inner.run('ip addr add 10.55.0.2/24 dev eth0 && ip link set eth0 up && ip route add default via 10.55.0.1');
    vm1.run(
      `sysctl -qw net.ipv4.ip_forward=1; nft 'table ip nat { chain pre { type nat hook prerouting priority -100; ip daddr ${ip} tcp dport 7101 dnat to 10.55.0.2; }; chain post { type nat hook postrouting priority 100; oifname "eth0" masquerade; }; }'`,
    );
  };
  /** Another network outside, behind a link with an MTU of 1300. */
  const addFar = (): Namespace => {
    const far = w.namespace('far');
    // frames as the wire has them; and Linux limits ICMP errors to six a second for each destination by default
    w.outside.run('ip link set ext0 gso_max_segs 1; sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0');
    w.outside.run(`ip link add far0 type veth peer name far1 netns ${far.name} && ip addr add 203.0.113.1/24 dev far0 && ip link set far0 mtu 1300 up`);
    far.run(`for a in ${FAR} ${FAR_ECHO} ${FAR_UDP}; do ip addr add $a/24 dev far1; done; ip link set far1 mtu 1300 up; ip route add default via 203.0.113.1`);
    return far;
  };

  /** A kernel keeps what it learned of a path for ten minutes. */
  const forgetPaths = (): void => {
    for (const ns of [w.outside, w.host]) ns.run('ip route flush cache');
  };

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('ie-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    const far = addFar();
    if (kind === 'kernel') [vm1, vm2] = [guest(w, 1), guest(w, 2)];
    e = new RemoteEngine(w, kind);
    expect(await e.apply(state(nic(1, 'shared', { rules: [rule(17_101, 7101), rule(17_005, 7005)] }), nic(2)))).toEqual([]);
    if (kind === 'user') {
      vm1 = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
      vm2 = await shimmedGuest(w, 'g2', macText(2), (await e.openNic(vmId(2))).path);
    }
    for (const vm of [vm1, vm2]) vm.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647" net.ipv4.icmp_ratelimit=0');
    const lease = await dhcp(w, vm1);
    await dhcp(w, vm2);
    addInner(lease?.ip ?? '');
    await Promise.all([serve(w.outside), serve(far, FAR, FAR_ECHO, FAR_UDP), serve(inner)]);
    await until('all is reached', () => vm1.pings(FAR) && vm2.pings(FAR) && inner.pings(INTERNET));
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  describe.each([
    [1280, 10_000_000],
    [500, 1_000_000],
  ])('behind the guest is a network with an MTU of %i', (mtu, bytes) => {
    beforeAll(() => {
      if (why !== null) return;
      forgetPaths();
      vm1.run(`ip link set b0 mtu ${mtu}`);
    });

    test('a download by it is whole', async () => {
      expect(await python(inner, DOWNLOAD(bytes))).toBe(`${bytes} True`);
    });

    test('an upload to it is whole, by a rule, from outside', async () => {
      expect(await python(w.outside, UPLOAD(HOST, bytes))).toBe(`${bytes} True`);
    });

    test('and from the host’s loopback', async () => {
      expect(await python(w.host, UPLOAD('127.0.0.1', bytes))).toBe(`${bytes} True`);
    });
  });

  test('RFC 5927, 4 and 5: errors about what is not in flight change nothing; none ends a connection, or asks for tiny segments', async () => {
    forgetPaths();
    const [first, second, again, got] = (await python(vm1, FORGE)).split(' ').map(Number) as [number, number, number, number];
    expect([first, second, got]).toEqual([1500, 1500, 60_000]);
    expect(again).toBeGreaterThan(500);
    expect(again).toBeLessThanOrEqual(552);
  });

  test('RFC 4787 REQ-13: datagrams with DF that are too large for a later link: each is reported, also once the host knows', async () => {
    const [unknown, known, quoted] = (await python(vm1, DATAGRAMS)).split('\n');
    expect([unknown, known]).toEqual(Array(2).fill('a 3 4 1300, b 3 4 1300, c 3 4 1300'));
    expect(quoted, 'length, DF, protocol, port, length of the datagram').toBe('1428 1 17 7777 1408');
  });

  test('echoes with DF that are too large for a later link: reported to every VM, each time', async () => {
    for (const vm of [vm1, vm1, vm2, vm2]) expect(await python(vm, ONE('echo', FAR, 1400, true))).toBe('3 4 1300');
    expect(await python(vm2, ONE('echo', FAR, 1200, true))).toBe('1200');
  });

  test('echoes and datagrams without DF are fragmented on the way, the first too', async () => {
    for (const size of [1400, 4000]) expect(await python(vm1, ONE('echo', FAR_ECHO, size, false))).toBe(`${size}`);
    for (const size of [1400, 4000]) expect(await python(vm2, ONE('udp', FAR_UDP, size, false))).toBe(`${size}`);
  });

  test('RFC 1812, 4.3.2.8: errors are limited to 1,000 a second', async () => {
    const [errors, seconds] = (await python(vm1, FLOOD)).split(' ').map(Number) as [number, number];
    expect(errors).toBeGreaterThan(0);
    expect(errors).toBeLessThanOrEqual(Math.min(10_000, 100 + 1000 * seconds));
    expect(await python(vm1, ONE('udp', FAR_UDP, 100, false))).toBe('100');
  });

  test('RFC 5508 REQ-5: a firewall of the guest rejects by ICMP: the client of a rule is refused at once', async () => {
    vm1.run("nft 'table ip fw { chain in { type filter hook input priority 0; tcp dport 7005 counter reject with icmp admin-prohibited; }; }'");
    const refused = kind === 'user' ? ['reset', 'closed'] : ['unreachable', 'reset', 'closed'];
    expect(refused).toContain(await greeting(w.outside, 'tcp', HOST, 17_005));
    expect(refused).toContain(await greeting(w.host, 'tcp', '127.0.0.1', 17_005));
    const syns = Number(/counter packets (\d+)/.exec(vm1.run('nft list table ip fw'))?.[1]);
    expect(syns, 'two clients; six SYNs each if they are not refused').toBeLessThan(8);
  });
});
