/**
 * Cards of different MTUs on one network, on every engine: the MTU that DHCP advertises, TCP, datagrams and pings of
 * every size (delivered, or an ICMP error), and outbound packets that fit the uplink. Guests are namespaces with the
 * kernel's own TCP.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';
import { dhcp, guest, macText, nic, serve, state, vmId } from './guest-tools.ts';

const ENGINES = [
  ['kernel engine', true, missing('root', 'netns')],
  ['user engine', false, missing('root', 'netns', 'tun', 'cc')],
] as const;
const MTUS = [65_520, 1500, 9000] as const;
const GW = '192.168.64.1';
const OUTSIDE = '10.9.0.1';

/**
 * Answers each connection with its maximum segment size and discards the data; answers each datagram with its length.
 */
const SINK = `
import socket, threading
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(('', 7100)); t.listen(50)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('', 7100))
def tcp(c):
    n = 0
    while True:
        d = c.recv(1 << 16)
        if not d: break
        n += len(d)
    c.sendall(b'%d %d' % (n, c.getsockopt(6, 2))); c.close()
def accept():
    while True: threading.Thread(target=tcp, args=(t.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
print('ready', flush=True)
while True:
    d, a = u.recvfrom(1 << 16); u.sendto(b'%d' % len(d) + bytes(len(d) - len(str(len(d)))), a)
`;

/** Sends 3 MB; prints what the sink said and the sender's own segment size. */
const SEND = (to: string): string => `
import socket
s = socket.create_connection(('${to}', 7100), 60); m = s.getsockopt(6, 2); s.sendall(bytes(3000000)); s.shutdown(1)
print(m, s.recv(100).decode())
`;

/**
 * A datagram of that size and its equally large answer; with \`whole\` it must not be fragmented: what the way takes is
 * learned from ICMP, and printed.
 */
const DATAGRAM = (to: string, size: number, whole: boolean): string => `
import socket, errno
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(2); u.setsockopt(0, 10, ${whole ? 2 : 0}); u.connect(('${to}', 7100))
r = 'nothing'
for i in range(10):
    try:
        u.send(bytes(${size})); r = str(len(u.recv(1 << 16))); break
    except TimeoutError: pass
    except OSError as e:
        r = errno.errorcode[e.errno] + ' ' + str(u.getsockopt(0, 14)); break
print(r)
`;

describe.each(ENGINES)('%s', (_name, kernel, why) => {
  let w: World;
  let e: RemoteEngine;
  const g: Namespace[] = [];
  const ip: string[] = [];
  beforeEach((t) => t.skip(why !== null));

  const python = async (ns: Namespace, program: string): Promise<string> => {
    const file = join(w.dir, `p${ns.name}.py`);
    writeFileSync(file, program);
    return (await ns.ask(`python3 ${file}`))?.trim() ?? 'failed';
  };
  const sink = async (ns: Namespace): Promise<void> => {
    const file = join(w.dir, 'sink.py');
    writeFileSync(file, SINK);
    const child = ns.spawn(['python3', file]);
    await new Promise<void>((resolve, reject) => {
      child.stdout?.once('data', () => resolve());
      child.once('exit', () => reject(new Error('the sink exited')));
    });
  };

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('mt-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    e = new RemoteEngine(w, kernel ? 'kernel' : 'user');
    const cards = MTUS.map((mtu, i) => nic(i + 1, 'shared', { mtu }));
    if (kernel) {
      for (const [i, mtu] of MTUS.entries()) {
        g[i] = guest(w, i + 1);
        g[i].run(`ip link set eth0 mtu ${mtu}`);
      }
    }
    expect(await e.apply(state(...cards))).toEqual([]);
    if (!kernel) for (const [i, mtu] of MTUS.entries()) g[i] = await shimmedGuest(w, `g${i + 1}`, macText(i + 1), (await e.openNic(vmId(i + 1))).path, mtu);
    for (const [i, ns] of g.entries()) ip[i] = (await dhcp(w, ns))?.ip ?? '';
    for (const ns of [...g, w.host, w.outside]) await sink(ns);
  });
  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test("DHCP advertises each card's own MTU", async () => {
    const script = join(w.dir, 'mtu.sh');
    writeFileSync(script, '#!/bin/sh\n[ "$1" = bound ] && echo "MTU $mtu"\nexit 0\n', { mode: 0o755 });
    const advertised = [];
    for (const ns of g) advertised.push(/MTU (\d*)/.exec((await ns.ask(`udhcpc -f -q -n -t 300 -T 1 -i eth0 -O mtu -s ${script} 2>/dev/null`)) ?? '')?.[1]);
    expect(advertised).toEqual(['65520', '', '9000']);
  });

  test('TCP between all pairs, the host and the outside: segments fit the smaller MTU', async () => {
    for (const from of [0, 1, 2])
      for (const to of [0, 1, 2]) {
        if (from === to) continue;
        const [mine = 0, bytes, theirs = 0] = (await python(g[from] as Namespace, SEND(ip[to] as string))).split(' ').map(Number);
        const fits = Math.min(MTUS[from] as number, MTUS[to] as number) - 40;
        expect([bytes, mine <= fits, theirs <= fits], `${MTUS[from]} to ${MTUS[to]}: ${mine}, ${theirs}`).toEqual([3_000_000, true, true]);
      }
    for (const ns of g) for (const to of [GW, OUTSIDE]) expect(await python(ns, SEND(to)), to).toMatch(/^\d+ 3000000 \d+$/);
  });

  test('datagrams that may be fragmented pass in both directions at every size', async () => {
    for (const to of [GW, OUTSIDE])
      for (const ns of g) for (const size of [1400, 9500, 65_400]) expect(await python(ns, DATAGRAM(to, size, false)), to).toBe(`${size}`);
    // between guests of the kernel engine this is done by the guest's virtio card, which a namespace lacks
    if (!kernel)
      for (const [a, b] of PAIRS)
        for (const size of [1400, 9500, 65_400]) expect(await python(g[a] as Namespace, DATAGRAM(ip[b] as string, size, false))).toBe(`${size}`);
  });

  test.skipIf(kernel)('a datagram or ping with DF that exceeds the receiver’s MTU gets fragmentation needed at once (RFC 1191)', async () => {
    expect(await python(g[0] as Namespace, DATAGRAM(ip[1] as string, 5000, true))).toBe('EMSGSIZE 1500');
    expect(await python(g[0] as Namespace, DATAGRAM(ip[2] as string, 20_000, true))).toBe('EMSGSIZE 9000');
    expect(await python(g[1] as Namespace, DATAGRAM(ip[0] as string, 1472, true))).toBe('1472');
    g[0]?.run('ip route flush cache');
    const ping = (from: number, to: string, size: number): Promise<string | null> =>
      (g[from] as Namespace).ask(`ping -M do -c 3 -i 0.2 -W 30 -s ${size} ${to} || true`);
    expect(await ping(0, ip[1] as string, 1473)).toMatch(/From 192.168.64.1 .*Frag needed and DF set \(mtu = 1500\)/);
    expect(await ping(0, ip[1] as string, 1472)).toMatch(/ 0% packet loss/);
    expect(await ping(0, ip[2] as string, 8973)).toMatch(/Frag needed and DF set \(mtu = 9000\)/);
    expect(await ping(1, ip[0] as string, 1472)).toMatch(/ 0% packet loss/);
    expect(await ping(0, GW, 65_000)).toMatch(/ 0% packet loss/);
  });

  test.skipIf(!kernel)(
    'the bridge has the smallest MTU, so that the host fits every guest, each tap the largest; a smaller uplink MTU lowers segments',
    async () => {
      const mtu = (name: string): number => Number(w.host.run(`cat /sys/class/net/${name}/mtu`));
      expect([1, 2, 3].map((n) => mtu(`anka0000000${n}`))).toEqual([65_520, 65_520, 65_520]);
      expect(mtu('anka-shared')).toBe(1500);
      // 1300 less the headers, and twelve bytes of timestamps
      w.host.run('ip route change default via 10.9.0.1 mtu 1300');
      expect(await python(g[0] as Namespace, SEND('198.51.100.1'))).toMatch(/^1248 3000000 1248$/);
      w.host.run('ip route change default via 10.9.0.1');
    },
  );

  test("a change of a card's MTU leaves other cards' flows alone", async () => {
    await serve(g[1] as Namespace, 7200, 'vm2');
    const flow = (g[2] as Namespace).spawn(['python3', '-c', FLOW(ip[1] as string)]);
    const ended = new Promise((resolve) => flow.once('close', resolve));
    let said = '';
    flow.stdout?.on('data', (d: Buffer) => {
      said += d.toString();
    });
    await until('it flows', () => said.includes('flows'));
    expect(await e.apply(state(nic(1, 'shared', { mtu: 1500 }), nic(2), nic(3, 'shared', { mtu: 9000 })))).toEqual([]);
    flow.stdin?.end();
    await ended;
    expect(said.trim()).toBe('flows\nwhole');
    expect(await python(g[2] as Namespace, SEND(ip[0] as string))).toMatch(/ 3000000 /);
  });
});

const PAIRS = [
  [0, 1],
  [1, 0],
  [0, 2],
  [2, 1],
] as const;

/** Echoes through a server until half a second after the end of its standard input. */
const FLOW = (to: string): string => `
import select, socket, sys, time
s = socket.create_connection(('${to}', 7200), 60); s.recv(100); rounds = 0; left = 25
while left:
    s.sendall(b'x' * 5000); n = 0
    while n < 5000: n += len(s.recv(5000)) or exit('ended')
    time.sleep(0.02); rounds += 1
    if rounds == 3: print('flows', flush=True)
    if select.select([sys.stdin], [], [], 0)[0]: left -= 1
print('whole')
`;
