/**
 * Changes of cards under traffic (B22, B91), escape attempts of host guests (B15), and self-set addresses (B50): on the
 * engine, in namespaces. Each test restores the cards of `desired`.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { RemoteEngine } from '../world/remote-engine.ts';
import { answered, missing, type Namespace, until, World } from '../world/world.ts';
import { dhcp, type Flow, flow, greet, greeting, guest, ipv4Packet, macText, nic, rule, sendFrames, serve, state, vmId } from './guest-tools.ts';

const why = missing('root', 'netns');
const INTERNET = '198.51.100.1';
const HOST = '10.9.0.2';
const GW = '192.168.64.1';

describe.skipIf(why !== null)(`live changes${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  let vm3: Namespace;
  let ip1 = '';
  let ip2 = '';

  const rules = [rule(10001, 8080)];
  const desired = (one: Parameters<typeof nic>[2] = {}, type: Parameters<typeof nic>[1] = 'shared') =>
    state(nic(1, type, { rules, ...one }), nic(2), nic(3, 'host'));
  const observed = async (n: number) => (await e.observe()).nics.find((x) => x.id === vmId(n));
  const flows: Flow[] = [];
  const begin = async (ns: Namespace, to: string, port: number): Promise<Flow> => {
    const f = await flow(ns, to, port);
    flows.push(f);
    return f;
  };
  /**
   * Checks that a flow has no pause beyond those of `control`, a flow that does not pass through anka, on a busy
   * machine.
   */
  const undisturbed = async (f: Flow, control: Flow): Promise<void> => {
    const [{ bytes, gap }, busy] = [await f.echoed(), (await control.echoed()).gap];
    console.log(`    longest pause ${gap} ms, of a flow outside ${busy} ms`);
    expect(gap, 'no pause').toBeLessThan(1000 + 2 * busy);
    await until('it goes on', async () => (await f.echoed()).bytes > bytes);
  };
  const address = async (g: Namespace) => (await dhcp(w, g))?.ip ?? '';

  beforeAll(async () => {
    w = new World('tl-');
    w.host.run('ip addr add 10.9.0.3/24 dev en0; sysctl -qw net.ipv6.conf.en0.forwarding=1; ip addr add 2001:db8:9::2/64 dev en0 nodad');
    w.outside.run('ip addr add 2001:db8:9::1/64 dev ext0 nodad; ip -6 route add default via 2001:db8:9::2');
    [vm1, vm2, vm3] = [1, 2, 3].map((n) => guest(w, n)) as [Namespace, Namespace, Namespace];
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(desired())).toEqual([]);
    await serve(w.outside, 8080, 'outside');
    await serve(w.host, 8081, 'host');
    for (const [i, g] of [vm1, vm2, vm3].entries()) await serve(g, 8080, `vm${i + 1}`);
    ip1 = await address(vm1);
    ip2 = await address(vm2);
    await address(vm3);
    await until('all have addresses', async () => (await observed(1))?.ip && (await observed(2))?.ip && (await observed(3))?.ip);
  });

  afterEach(() => {
    for (const f of flows.splice(0)) f.stop();
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('B22: a change of network resets the VM’s connections of every kind, and no others', async () => {
    const control = await begin(w.outside, INTERNET, 8080);
    const neighbours = [await begin(vm2, INTERNET, 8080), await begin(w.host, ip2, 8080)];
    const mine = {
      'from outside by the rule': await begin(w.outside, HOST, 10001),
      'from the host’s loopback by the rule': await begin(w.host, '127.0.0.1', 10001),
      'from the host': await begin(w.host, ip1, 8080),
      'from another VM': await begin(vm2, ip1, 8080),
    };
    expect(await e.apply(desired({}, 'host'))).toEqual([]);
    vm1.run('ip -4 addr flush dev eth0');
    for (const [what, f] of Object.entries(mine)) {
      if (what === 'from another VM') continue;
      await until(`${what}: it ends`, () => f.end());
    }
    const there = await address(vm1);
    expect(there).toMatch(/^192\.168\.128\./);
    expect(await greeting(w.host, 'tcp', there, 8080)).toBe('vm1 sees 192.168.128.1');
    await until('the rule follows', async () => (await greet(w.outside, 'tcp', HOST, 10001)) === 'vm1 sees 10.9.0.1');
    const before = (await mine['from another VM'].echoed()).bytes;
    expect((await mine['from another VM'].echoed()).bytes, 'nothing comes any more').toBe(before);
    for (const f of neighbours) {
      expect(f.end()).toBeNull();
      await undisturbed(f, control);
    }
    expect(await e.apply(desired())).toEqual([]);
    expect(await address(vm1), 'the same address again').toBe(ip1);
  });

  test('B20, B22: a link down resets connections, in both directions', async () => {
    const f = await begin(w.outside, HOST, 10001);
    await e.apply(desired({}, 'disconnected'));
    await until('it ends', () => f.end());
    expect(await greeting(w.outside, 'tcp', HOST, 10001)).toBe('refused');
    await e.apply(desired());
    expect(await address(vm1)).toBe(ip1);
  });

  test('B91: --no-local, live: local connections are reset, outside ones continue; no bypass by the gateway, IPv6 or multicast', async () => {
    const far = [await begin(vm1, INTERNET, 8080), await begin(w.outside, HOST, 10001)];
    await serve(vm1, 8085, 'vm1');
    const near = await begin(w.host, ip1, 8085); // no rule leads there
    const link = (g: Namespace) => /inet6 (fe80\S+)\//.exec(g.run('ip -6 addr show dev eth0'))?.[1] ?? '';
    const bridge = 'fe80::5845:45ff:fe00:4001';
    const ping6 = (g: Namespace, to: string, dev = 'eth0') => g.attempt(`ping -6 -c1 -W1 -q ${to}%${dev}`) !== null;
    await until('IPv6 works between VMs, and to the host', () => ping6(vm1, link(vm2)) && ping6(vm1, bridge) && ping6(w.host, link(vm1), 'anka-shared'));

    expect(await e.apply(desired({ isolated: true }))).toEqual([]);
    await until('the near one ends', () => near.end());
    expect(await answered([vm2, ip1], [vm1, ip2], [vm1, GW], [vm1, HOST], [w.host, ip1])).toEqual([]);
    // through the gateway: the host would route it back
    await Promise.all(
      (
        [
          [vm1, ip2],
          [vm2, ip1],
        ] as const
      ).map(async ([g, to]) => {
        g.run(`ip route add ${to}/32 via ${GW}`);
        expect(await greet(g, 'tcp', to, 8080)).not.toMatch(/sees/);
        g.run(`ip route del ${to}/32`);
      }),
    );
    const groups = [vm2.ask('ping -6 -c2 -i0.2 -W1 ff02::1%eth0'), vm2.ask('ping -b -c2 -i0.2 -W1 192.168.64.255')];
    const [of1, of2] = [link(vm1), link(vm2)].map((a) => `${a}%eth0`) as [string, string];
    expect(await answered([vm1, of2], [vm2, of1], [vm1, `${bridge}%eth0`], [w.host, `${link(vm1)}%anka-shared`])).toEqual([]);
    expect((await groups[0]) ?? '').not.toContain(link(vm1));
    expect((await groups[1]) ?? '').not.toContain(`from ${ip1}`);
    // a self-set address does not bypass it either
    vm1.run('ip addr add 192.168.64.99/24 dev eth0');
    for (let i = 0; i < 2; i++) expect(vm1.attempt(`ping -c1 -W1 -q -I 192.168.64.99 ${GW}`)).toBeNull();
    vm1.run('ip addr del 192.168.64.99/24 dev eth0');
    await dhcp(w, vm1);
    for (const f of far) expect(f.end()).toBeNull();
    await vm1.reaches(INTERNET);
    await until('the rule answers', async () => (await greet(w.outside, 'tcp', HOST, 10001)) === 'vm1 sees 10.9.0.1');

    expect(await e.apply(desired())).toEqual([]);
    await until('local again', () => vm2.pings(ip1) && vm1.pings(GW) && ping6(vm2, link(vm1)));
  });

  describe('B50, B51: addresses that guests set by themselves', () => {
    const set = (g: Namespace, ip: string) => g.run(`ip -4 addr flush dev eth0; ip addr add ${ip}/24 dev eth0; ip route replace default via ${GW}`);
    const shown = (ip: string) => until(`${ip} is seen`, async () => (await observed(2))?.ip === number(ip));
    const number = (ip: string) => ip.split('.').reduce((n, b) => n * 256 + Number(b), 0);

    test('reported within two seconds, whatever the guest sends; and back again; forwarding follows', async () => {
      await e.apply(state(nic(1, 'shared', { rules }), nic(2, 'shared', { rules: [rule(10008, 8080)] }), nic(3, 'host')));
      for (const ip of ['192.168.64.77', '192.168.64.78', '192.168.64.77', ip2, '192.168.64.78', ip2]) {
        set(vm2, ip);
        // to another VM only, as a guest without outside traffic
        vm2.attempt(`ping -c1 -W1 -q ${ip1}`);
        const since = Date.now();
        await shown(ip);
        console.log(`    ${ip} seen after ${Date.now() - since} ms`);
        await until('forwarding follows', async () => (await greet(w.outside, 'tcp', HOST, 10008)) === 'vm2 sees 10.9.0.1');
        expect((await observed(2))?.source).toBe(ip === ip2 ? 'lease' : 'static');
      }
      await e.apply(desired());
    });

    test('DHCPINFORM gets the options and no address (RFC 2131 3.4)', async () => {
      set(vm2, '192.168.64.79');
      const program = `
import socket,struct
m=bytes.fromhex('${macText(2).replaceAll(':', '')}')
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.setsockopt(1,25,b'eth0'); s.setsockopt(1,6,1); s.bind(('0.0.0.0',68)); s.settimeout(60)
b=struct.pack('!BBBBIHH',1,1,6,0,77,0,0)+socket.inet_aton('192.168.64.79')+bytes(12)+m+bytes(202)+bytes.fromhex('63825363350108ff')
s.sendto(b,('192.168.64.1',67)); a=s.recv(1500); o={}; i=240
while a[i]!=255:
  o[a[i]]=a[i+2:i+2+a[i+1]]; i+=2+a[i+1]
print(socket.inet_ntoa(a[16:20]), o[53][0], socket.inet_ntoa(o[3]), socket.inet_ntoa(o[6]), 51 in o)`;
      expect((await vm2.ask(`python3 -c "${program}"`))?.trim()).toBe(`0.0.0.0 5 ${GW} ${GW} False`);
      await shown('192.168.64.79');
      await vm2.reaches(INTERNET);
    });

    test('the address of another VM, the gateway or a reservation cannot be taken; its owner keeps it', async () => {
      const control = await begin(w.outside, INTERNET, 8080);
      const f = await begin(w.host, ip1, 8080);
      await e.apply(state(nic(1, 'shared', { rules, reservedIp: number('192.168.64.50') }), nic(2), nic(3, 'host')));
      for (const ip of [ip1, GW, '192.168.64.50']) {
        set(vm2, ip);
        expect(vm2.attempt(`ping -c1 -W1 -q -I ${ip} ${ip === GW ? ip1 : GW}`), ip).toBeNull();
      }
      await undisturbed(f, control);
      expect(await address(vm1), 'the reservation is given').toBe('192.168.64.50');
      await e.apply(desired());
      ip2 = await address(vm2);
      vm1.run('ip -4 addr flush dev eth0');
      ip1 = await address(vm1);
    });

    test('an address that answers ARP is not offered, even without a known owner', async () => {
      const stranger = w.guest('x', 'stranger0', '02:00:00:00:00:99');
      w.host.run('ip link set stranger0 master anka-shared up');
      const free = [4, 5].map((n) => `192.168.64.${n}`);
      for (const ip of free) stranger.run(`ip addr add ${ip}/24 dev eth0`);
      await until('the stranger is there', () => w.host.pings('192.168.64.4'));
      await e.apply(state(nic(1, 'shared', { rules }), nic(2), nic(3, 'shared')));
      vm3.run('ip -4 addr flush dev eth0');
      const got = await address(vm3);
      expect(got).toMatch(/^192\.168\.64\./);
      expect(free).not.toContain(got);
      w.host.run('ip link del stranger0');
      await e.apply(desired());
      await address(vm3);
    });
  });

  describe('B15: a host guest reaches nothing beyond the host (enforced)', () => {
    /** Counts the packets that reach the outside during an attempt. */
    const heard = async (attempt: () => Promise<unknown> | unknown): Promise<string> => {
      const dump = w.outside.spawn([
        'tcpdump',
        '-i',
        'ext0',
        '-n',
        '-l',
        '--immediate-mode',
        'not arp and not (icmp6 and ip6[40] >= 133) and not (ip6[6] == 0 and ip6[40] == 58)',
      ]);
      let out = '';
      dump.stdout?.on('data', (d: Buffer) => {
        out += d.toString();
      });
      // the host's own packets are counted: the counter works
      await until('the outside listens', async () => {
        w.host.attempt('ping -c1 -W1 -q -s 11 10.9.0.1');
        return out.includes('length 19');
      });
      await attempt();
      w.host.attempt('ping -c1 -W1 -q -s 12 10.9.0.1');
      await until('all was heard', () => out.includes('length 20'));
      dump.kill();
      return out
        .split('\n')
        .filter((l) => l !== '' && !/length (19|20)$/.test(l))
        .join('\n');
    };
    const frame = (source: string, to: string, protocol: number, payload: string) =>
      `5a4545008001${macText(3).replaceAll(':', '')}0800${ipv4Packet(source, to, protocol, payload)}`;
    const own = () => vm3.run("ip -4 -o addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'").trim();

    test('TCP, UDP, ICMP, SCTP, GRE, ESP, IPIP, unknown protocols, spoofed sources, source routes, multicast', async () => {
      const ip = own();
      const udp = '1f901f90000c00007878';
      const frames = [1, 6, 17, 132, 47, 50, 4, 41, 2, 253].map((p) => frame(ip, INTERNET, p, p === 1 ? '0800f7fd00010001' : `${udp}${'00'.repeat(20)}`));
      for (const source of [HOST, '10.9.0.1', ip2, GW, '192.168.128.1', '127.0.0.1', '0.0.0.0', '255.255.255.255', '198.51.100.77'])
        frames.push(frame(source, INTERNET, 17, udp), frame(source, '10.9.0.1', 17, udp));
      for (const to of ['224.0.0.251', '239.1.2.3', '255.255.255.255', '10.9.0.255']) frames.push(frame(ip, to, 17, udp));
      // loose source route through the host to the outside
      const routed = Buffer.from(ipv4Packet(ip, HOST, 17, `830704c633640100${udp}`), 'hex');
      routed[0] = 0x47;
      frames.push(`5a4545008001${macText(3).replaceAll(':', '')}0800${fixedHeader(routed, 28)}`);
      expect(await heard(() => sendFrames(vm3, frames))).toBe('');
    });

    test('IPv6: the host’s global address is reached, the outside is not', async () => {
      vm3.run('ip -6 addr add 2001:db8:80::3/64 dev eth0 nodad; ip -6 route add default via fe80::5845:45ff:fe00:8001 dev eth0');
      w.host.run('ip -6 addr add 2001:db8:80::1/64 dev anka-host nodad');
      await until('the host is reached by IPv6', () => vm3.attempt('ping -6 -c1 -W1 -q 2001:db8:9::2') !== null);
      expect(await heard(() => vm3.attempt('ping -6 -c2 -i0.2 -W1 -q 2001:db8:9::1'))).toBe('');
      w.host.run('ip -6 addr del 2001:db8:80::1/64 dev anka-host');
    });

    test('outside names resolve neither by the gateway nor by any host address, TCP or IPv6', async () => {
      const resolver = w.host.spawn([
        'dnsmasq',
        '-k',
        '--conf-file=/dev/null',
        '--pid-file=',
        '--no-resolv',
        '--no-hosts',
        '--user=root',
        '--address=/outside.test/203.0.113.9',
        '--listen-address=10.9.0.2,10.9.0.3,2001:db8:9::2',
        '--bind-interfaces',
      ]);
      await until(
        'the host’s own resolver answers',
        async () => (await w.host.ask('dig +short +time=1 +tries=1 @10.9.0.2 outside.test'))?.trim() === '203.0.113.9',
      );
      expect((await vm1.ask('dig +short +time=5 +tries=9 @10.9.0.2 outside.test'))?.trim(), 'a shared guest may').toBe('203.0.113.9');
      for (const server of ['192.168.128.1', '10.9.0.2', '+tcp @10.9.0.3', '2001:db8:9::2'])
        expect((await vm3.ask(`dig +short +time=1 +tries=1 ${server.startsWith('+') ? server : `@${server}`} outside.test`)) ?? '', server).not.toContain(
          '203.0.113.9',
        );
      expect((await vm3.ask('dig +short +time=5 +tries=9 @10.9.0.2 host.anka.internal'))?.trim()).toBe('192.168.128.1');
      resolver.kill();
    });

    test('through a shared VM or its gateway: not reachable', async () => {
      const before = own();
      const hops = [ip1, ip2, GW, '192.168.64.255'];
      for (const to of hops) vm3.run(`ip route replace ${to}/32 via 192.168.128.1`);
      const udp = greet(vm3, 'udp', ip1, 8080);
      expect(await answered(...hops.map((to) => [vm3, to] as const))).toEqual([]);
      expect(await udp).toBe('timeout');
      // a shared VM that forwards and announces itself as the router
      vm1.run(`sysctl -qw net.ipv4.ip_forward=1; ip route replace 192.168.128.0/24 via ${GW}`);
      expect(await heard(() => vm3.attempt(`ip route replace ${INTERNET}/32 via ${ip1} dev eth0 onlink; ping -c1 -W1 -q ${INTERNET}`))).toBe('');
      vm3.attempt(`ip route del ${INTERNET}/32`);
      expect(vm1.pings(before)).toBe(false);
    });
  });
});

/** The packet with its header checksum corrected for that header length. */
function fixedHeader(packet: Buffer, length: number): string {
  packet.writeUInt16BE(0, 10);
  let sum = 0;
  for (let i = 0; i < length; i += 2) sum += packet.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  packet.writeUInt16BE(~sum & 0xffff, 10);
  return packet.toString('hex');
}
