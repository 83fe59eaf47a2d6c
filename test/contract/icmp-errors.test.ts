/**
 * Outbound UDP of a guest, on both engines: source ports, sizes, what stays on the network, and the ICMP errors that
 * the guest gets (from its kernel's error queue). Behind the outside machine is another network with a small MTU, where
 * nobody answers.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';
import { dhcp, guest, macText, nic, serve, state, vmId } from './guest-tools.ts';

const SUITES = onBothEngines('ICMP errors, ');
const INTERNET = '198.51.100.1';
const OUT = '10.9.0.1';
const GW = '192.168.64.1';
const FAR = '203.0.113.9';
const CLOSED = 9;

/**
 * argv: udp|echo ttl whole(0|1) size destination port seconds. Prints type, code, sender and MTU of the error; or
 * `answered`, or `silent`.
 */
const PROBE = `
import socket, struct, sys
kind, ttl, whole, size, dst, port, wait = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5], *map(int, sys.argv[6:8])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 17 if kind == 'udp' else 1); s.settimeout(wait)
s.setsockopt(0, 11, 1); s.setsockopt(0, 2, ttl); s.setsockopt(0, 10, 3 if whole else 0)
s.sendto((b'' if kind == 'udp' else bytes([8, 0, 0, 0, 0, 0, 0, 1])) + b'x' * size, (dst, port))
try: s.recv(65535); print('answered')
except socket.timeout: print('silent')
except OSError:
    for level, name, b in s.recvmsg(2048, 512, 0x2000)[1]:
        if (level, name) == (0, 11):
            e = struct.unpack('IBBBBII', b[:16]); print(e[2], e[3], socket.inet_ntoa(b[20:24]), e[5])
`;

/**
 * Echoes each datagram behind the address and port that it came from; "quiet" is stored silently, and "heard" returns
 * what was stored. Three ports, and a group.
 */
const ECHO = `
import select, socket
all = []
for p in (7777, 7778, 7779):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', p)); s.setsockopt(0, 10, 0); all.append(s)
s.setsockopt(0, 35, socket.inet_aton('239.1.2.3') + socket.inet_aton('10.9.0.1'))
quiet = []
while True:
    for s in select.select(all, [], [])[0]:
        data, peer = s.recvfrom(65535)
        if data.startswith(b'quiet'): quiet.append(data.decode())
        elif data == b'heard': s.sendto(' '.join(quiet).encode() or b'nothing', peer)
        elif len(data) > 1000: s.sendto(data, peer)
        else: s.sendto(('%s %d' % peer).encode(), peer)
`;

describe.each(SUITES)('%s', (_suite, { kind, why }) => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let probe = '';

  beforeEach((test) => test.skip(why !== null));

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('ic-');
    // Linux limits ICMP errors to six a second for each destination by default
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647" net.ipv4.icmp_ratelimit=0');
    w.outside.run(
      'ip link add far0 type veth peer name far1 && ip link set far1 up && ip link set far0 mtu 1300 up && ip route add 203.0.113.0/24 dev far0 && sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0',
    );
    if (kind === 'kernel') vm1 = guest(w, 1);
    e = new RemoteEngine(w, kind);
    expect(await e.apply(state(nic(1)))).toEqual([]);
    if (kind === 'user') vm1 = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
    vm1.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    await dhcp(w, vm1);
    await serve(w.outside, 8080, 'outside');
    w.outside.spawn(['python3', '-c', ECHO]);
    await until('outside listens', () => w.outside.attempt('ss -Huln sport = :7779') !== '');
    probe = join(w.dir, 'probe.py');
    writeFileSync(probe, PROBE);
    await until('outside is reached', () => vm1.pings(INTERNET));
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  const icmpError = async (what: 'udp' | 'echo', to: string, { ttl = 64, whole = false, size = 20, port = CLOSED, seconds = 60 } = {}): Promise<string> =>
    ((await vm1.ask(`python3 ${probe} ${what} ${ttl} ${whole ? 1 : 0} ${size} ${to} ${port} ${seconds}`)) ?? 'the probe failed').trim();

  /** Runs a Python program with sockets in the guest, and returns its output. */
  const python = async (program: string): Promise<string> => {
    const path = join(w.dir, 'program.py');
    writeFileSync(
      path,
      `import os, socket\ndef udp():\n    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(60); s.setsockopt(0, 10, 0); return s\n${program}`,
    );
    return ((await vm1.ask(`python3 ${path}`)) ?? 'the program failed').trim();
  };

  test('RFC 4787 REQ-1: a guest’s port maps to one host port for all destinations; another port to another', async () => {
    const seen = await python(`
a, b = udp(), udp()
def seen(s, to):
    s.sendto(b'who', to); return s.recv(99).decode()
print(seen(a, ('${OUT}', 7777)), seen(a, ('${INTERNET}', 7777)), seen(a, ('${OUT}', 7778)), seen(b, ('${OUT}', 7777)), sep='\\n')`);
    const [first, second, third, other] = seen.split('\n');
    expect(first).toMatch(/^10\.9\.0\.2 \d+$/);
    expect([second, third]).toEqual([first, first]);
    expect(other).toMatch(/^10\.9\.0\.2 \d+$/);
    expect(other).not.toBe(first);
  });

  test('datagrams of up to 65,507 bytes return byte for byte', async () => {
    const got = await python(`
s = udp()
for n in (1472, 1473, 9000, 60000, 65507):
    data = os.urandom(n); s.sendto(data, ('${OUT}', 7777)); print(n, s.recv(65535) == data)`);
    expect(got.split('\n')).toEqual([1472, 1473, 9000, 60_000, 65_507].map((n) => `${n} True`));
  });

  test('multicast and broadcast stay on the network', async () => {
    const heard = await python(`
s = udp(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); s.setsockopt(0, 33, 8)
for to in ('${OUT}', '239.1.2.3', '224.0.0.1', '255.255.255.255', '192.168.64.255', '10.9.0.255'):
    try: s.sendto(b'quiet ' + to.encode(), (to, 7779))
    except OSError: pass
s.sendto(b'heard', ('${OUT}', 7779)); print(s.recv(999).decode())`);
    expect(heard, 'only what was for outside is heard there').toBe(`quiet ${OUT}`);
  });

  test('a closed port, outside and at the gateway: port unreachable at once', async () => {
    expect(await icmpError('udp', INTERNET)).toBe(`3 3 ${INTERNET} 0`);
    expect(await icmpError('udp', GW)).toBe(`3 3 ${GW} 0`);
  });

  test('after an error the same flow still reaches peers that answer', async () => {
    const both = `import socket\\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\\ns.settimeout(60)\\ns.bind(('',5001))\\nfor i in range(3): s.sendto(b'x',('${OUT}',${CLOSED}))\\ns.sendto(b'x',('${OUT}',8080))\\nprint(s.recv(99).decode())`;
    expect((await vm1.ask(`printf "${both.replaceAll("'", '\\047')}" | python3`))?.trim()).toBe('outside sees 10.9.0.2');
  });

  test('an address that nobody has: host unreachable', async () => {
    expect(await icmpError('udp', '10.9.0.77')).toMatch(/^3 1 /);
    expect(await icmpError('echo', '10.9.0.77')).toMatch(/^3 1 /);
  });

  test('the TTL expires at the gateway and at the next router: traceroute by UDP and by echo', async () => {
    for (const what of ['udp', 'echo'] as const) {
      expect(await icmpError(what, FAR, { ttl: 1 }), what).toBe(`11 0 ${GW} 0`);
      expect(await icmpError(what, FAR, { ttl: 2 }), what).toBe(`11 0 10.9.0.1 0`);
    }
    expect(await icmpError('udp', INTERNET, { ttl: 2 })).toBe(`3 3 ${INTERNET} 0`);
    expect(await icmpError('echo', INTERNET, { ttl: 2 })).toBe('answered');
    // no reply to a malformed query: an error would arrive at once
    expect(await icmpError('udp', GW, { ttl: 1, port: 53, seconds: 2 })).not.toMatch(/^11/);
  });

  test('a SYN whose TTL expires at the gateway', async () => {
    const tcp = `python3 -c "import socket; s=socket.socket(); s.setsockopt(0,2,1); s.setsockopt(0,11,1); s.settimeout(60)\ntry: s.connect(('${INTERNET}',8080)); print('connected')\nexcept OSError as e: print(e.errno)"`;
    expect((await vm1.ask(tcp))?.trim()).toBe('113');
  });

  test('a datagram with DF too large for a later link: fragmentation needed with that link’s MTU, each time', async () => {
    expect(await icmpError('udp', FAR, { whole: true, size: 1400 })).toMatch(/^3 4 \S+ 1300$/);
    expect(await icmpError('udp', FAR, { whole: true, size: 1400 })).toMatch(/^3 4 \S+ 1300$/);
  });

  test('a datagram without DF is fragmented: 8000 bytes return', async () => {
    const program = `python3 -c "import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(60); s.setsockopt(0,10,0); s.sendto(b'x'*8000,('${OUT}',8080)); print(s.recv(99).decode())"`;
    expect((await vm1.ask(program))?.trim()).toBe('outside sees 10.9.0.2');
  });
});
