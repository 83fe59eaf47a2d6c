/**
 * Packet filters of VMs (B130, docs/filters.md) on both engines: what a guest sends and receives, by its rules, live.
 *
 * What must not happen is tried once, beside something that must.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Explanation } from '../../src/net/explain/explanation.ts';
import { parseIpv4 } from '../../src/wire/address.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { FrameSender, Sniffer } from '../world/sniffer.ts';
import { type Namespace, until, World } from '../world/world.ts';
import { dhcp, flow, greet, greeting, guest, ipv4Hex, macText, nic, rule, serve, state, vmId } from './guest-tools.ts';

const INTERNET = '198.51.100.1';
const OUTSIDE = '10.9.0.1';
const HOST = '10.9.0.2';
const GW = '192.168.64.1';

describe.each(onBothEngines())('packet filters: %s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  let ip1 = '';
  let ip2 = '';

  const desired = (filter: string | null, type: 'shared' | 'host' = 'shared') =>
    state(nic(1, type, { rules: [rule(10001, 8080), rule(10002, 8080, 'udp')], ...(filter === null ? {} : { filter }) }), nic(2));
  /** Puts a filter on vm1. */
  const filter = async (...lines: string[]): Promise<void> => expect(await e.apply(desired(lines.join('\n')))).toEqual([]);
  const drops = async (): Promise<number> => (await e.stats()).find((x) => x.id === vmId(1))?.drops['filter'] ?? 0;
  const pings = async (from: Namespace, to: string): Promise<boolean> => (await from.ask(`ping -c1 -W2 -q ${to}`)) !== null;
  const explain = (protocol: 'tcp' | 'udp' | 'icmp', source: string | null, destination: string, port: number | null): Promise<Explanation> =>
    e.explain(vmId(1), { protocol, source: source === null ? null : parseIpv4(source), sourcePort: null, destination: parseIpv4(destination) ?? 0, port });

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('tf-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    e = new RemoteEngine(w, t.kind);
    if (t.kind === 'kernel') [vm1, vm2] = [1, 2].map((n) => guest(w, n)) as [Namespace, Namespace];
    expect(await e.apply(desired(null))).toEqual([]);
    if (t.kind === 'user')
      [vm1, vm2] = [
        await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path),
        await shimmedGuest(w, 'g2', macText(2), (await e.openNic(vmId(2))).path),
      ];
    await serve(w.outside, 8080, 'outside');
    await serve(w.outside, 8081, 'outside');
    await serve(w.host, 8082, 'host');
    for (const [i, g] of [vm1, vm2].entries()) for (const port of [8080, 8081]) await serve(g, port, `vm${i + 1}`);
    ip1 = (await dhcp(w, vm1))?.ip ?? '';
    ip2 = (await dhcp(w, vm2))?.ip ?? '';
    await until('both addresses are known', async () => (await e.observe()).nics.every((x) => x.ip !== null));
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    expect(w.host.run('nft list ruleset'), 'nothing is left').not.toContain('anka');
    w.close();
  });

  test('B130: out: the first rule that matches decides, by address, port and protocol; the rest passes', async () => {
    await filter('# comment', `pass out proto tcp to ${INTERNET} port 8080`, `block out to ${INTERNET}`, `block out proto udp to ${OUTSIDE} port 8000:8080`);
    const before = await drops();
    expect(await greeting(vm1, 'tcp', INTERNET, 8080)).toMatch(/outside sees/);
    expect(await greeting(vm1, 'tcp', OUTSIDE, 8081)).toMatch(/outside sees/);
    expect(await greeting(vm1, 'udp', OUTSIDE, 8081)).toMatch(/outside sees/);
    const blocked = await Promise.all([greet(vm1, 'tcp', INTERNET, 8081), greet(vm1, 'udp', INTERNET, 8080), greet(vm1, 'udp', OUTSIDE, 8080)]);
    expect(blocked).toEqual(['timeout', 'timeout', 'timeout']);
    expect(await pings(vm1, INTERNET)).toBe(false);
    expect(await drops()).toBeGreaterThan(before + 3);
    expect(await greeting(vm2, 'tcp', INTERNET, 8081), 'another VM is not concerned').toMatch(/outside sees/);
  });

  test('B130: in: only what others begin; answers pass', async () => {
    await filter('block in');
    expect(await greeting(vm1, 'tcp', INTERNET, 8080)).toMatch(/outside sees/);
    expect(await greeting(vm1, 'udp', OUTSIDE, 8080)).toMatch(/outside sees/);
    expect(await greeting(vm1, 'tcp', ip2, 8080)).toMatch(/vm2 sees/);
    expect(await pings(vm1, INTERNET)).toBe(true);
    expect(await pings(vm1, GW)).toBe(true);
    expect((await vm1.ask(`dig +short +time=5 @${GW} host.anka.internal`)) ?? '').toContain(GW);
    const blocked = await Promise.all([
      greet(w.outside, 'tcp', HOST, 10001),
      greet(w.outside, 'udp', HOST, 10002),
      greet(vm2, 'tcp', ip1, 8080),
      greet(vm2, 'udp', ip1, 8080),
    ]);
    expect(blocked.filter((b) => b.includes('sees'))).toEqual([]);
    expect(await pings(vm2, ip1)).toBe(false);
  });

  test('B130: block any behind exceptions: a port for all, one peer for everything, and nothing else', async () => {
    await filter('pass in to port 8080', `pass out to ${INTERNET} port 8080`, `pass any from ${ip2}`, 'block any');
    expect(await greeting(w.outside, 'tcp', HOST, 10001)).toMatch(/vm1 sees/);
    expect(await greeting(w.outside, 'udp', HOST, 10002)).toMatch(/vm1 sees/);
    expect(await greeting(vm1, 'tcp', INTERNET, 8080)).toMatch(/outside sees/);
    expect(await greeting(vm2, 'udp', ip1, 8081)).toMatch(/vm1 sees/);
    expect(await pings(vm2, ip1)).toBe(true);
    const blocked = await Promise.all([greet(vm1, 'tcp', OUTSIDE, 8080), greet(vm1, 'udp', INTERNET, 8081), greet(vm1, 'tcp', ip2, 8080)]);
    expect(blocked.filter((b) => b.includes('sees'))).toEqual([]);
    expect(await vm1.ask(`dig +short +time=1 +tries=1 @${GW} host.anka.internal`)).toBeNull();
    expect(await pings(vm1, INTERNET)).toBe(false);
  });

  test('B130: under block any the VM keeps its address; a rule that names the ports of DHCP blocks it', async () => {
    await filter('block any');
    expect((await dhcp(w, vm1))?.ip).toBe(ip1);
    const before = await drops();
    await filter('block out from port 68 to port 67');
    expect(await vm1.ask('udhcpc -f -q -n -t 2 -T 1 -i eth0 -s /bin/true 2>/dev/null')).toBeNull();
    expect(await drops()).toBeGreaterThan(before);
    await filter('block in from any port 67 to any port 68');
    expect(await vm1.ask('udhcpc -f -q -n -t 2 -T 1 -i eth0 -s /bin/true 2>/dev/null')).toBeNull();
  });

  test('B130: block local: neither host nor other VMs, but the outside and the gateway’s DHCP and DNS', async () => {
    await filter('block local');
    expect(await greeting(vm1, 'tcp', INTERNET, 8080)).toMatch(/outside sees/);
    expect((await vm1.ask(`dig +short +time=5 @${GW} host.anka.internal`)) ?? '').toContain(GW);
    expect((await vm1.ask(`dig +tcp +short +time=5 @${GW} host.anka.internal`)) ?? '').toContain(GW);
    expect((await dhcp(w, vm1))?.ip).toBe(ip1);
    expect(await greeting(w.outside, 'tcp', HOST, 10001), 'a client from outside').toMatch(/vm1 sees 10\.9\.0\.1/);
    const blocked = await Promise.all([greet(vm1, 'tcp', ip2, 8080), greet(vm2, 'tcp', ip1, 8080), greet(vm1, 'tcp', GW, 8082), greet(vm1, 'tcp', HOST, 8082)]);
    expect(blocked.filter((b) => b.includes('sees'))).toEqual([]);
    const groups = await Sniffer.start(w, vm2, 'eth0', 'in');
    // ARP is not filtered: once it has arrived, the broadcast would have, too
    const mac = macText(1).replaceAll(':', '');
    const broadcast = `ffffffffffff${mac}0800${headerOf(ip1, '192.168.64.255', 17, '0000', 20)}0f000f0000140000deadbeefcafe0001${'00'.repeat(4)}`;
    const arp = `ffffffffffff${mac}08060001080006040001${mac}${ipv4Hex(ip1)}000000000000${ipv4Hex(ip2)}deadbeefcafe0002${'00'.repeat(10)}`;
    new FrameSender(vm1, 'eth0').send([broadcast, arp]);
    await until('vm2 hears of vm1', () => groups.sees('deadbeefcafe0002'));
    expect(groups.sees('deadbeefcafe0001')).toBe(false);
  });

  test('B130: a change applies to open connections: those that the rules still allow go on, others stop', async () => {
    await filter('block in proto icmp');
    const [kept, cut] = [await flow(vm1, INTERNET, 8080), await flow(vm1, OUTSIDE, 8081)];
    await filter(`block out to ${OUTSIDE}`, 'block in');
    const before = await kept.echoed();
    await until('one goes on', async () => (await kept.echoed()).bytes > before.bytes + 20);
    const stopped = (await cut.echoed()).bytes;
    await until('one goes on', async () => (await kept.echoed()).bytes > before.bytes + 60);
    expect((await cut.echoed()).bytes, 'the other has stopped').toBe(stopped);
    await filter('block in');
    await until('it goes on when it may', async () => (await cut.echoed()).bytes > stopped);
    kept.stop();
    cut.stop();
  });

  test('B130: a fragmented datagram passes with its answer; a later fragment alone does not', async () => {
    await filter(`pass out to ${OUTSIDE} port 8080`, `pass out to ${ip2} port 8080`, 'block any');
    const big = (to: string): string =>
      `python3 -c "import socket; s=socket.socket(2,2); s.settimeout(60); s.sendto(b'x'*4000,('${to}',8080)); print(s.recv(9000).decode()[:3])"`;
    expect((await vm1.ask(big(ip2)))?.trim(), 'to a VM').toBe('vm2');
    expect((await vm1.ask(big(OUTSIDE)))?.trim(), 'to outside').toBe('out');
    const sniffer = await Sniffer.start(w, vm2, 'eth0', 'in');
    const frames = new FrameSender(vm1, 'eth0');
    const fragment = (offset: string, token: string): string =>
      `${macText(2).replaceAll(':', '')}${macText(1).replaceAll(':', '')}0800${headerOf(ip1, ip2, 17, offset, 8 + 24)}0f000f0000200000${token.padEnd(48, '0')}`;
    frames.send([fragment('0003', 'aaaa0001aaaa0001')]);
    await greeting(vm1, 'udp', ip2, 8080);
    expect(sniffer.sees('aaaa0001aaaa0001')).toBe(false);
    await filter('pass any');
    frames.send([fragment('0000', 'aaaa0002aaaa0002')]);
    await until('the sniffer works', () => sniffer.sees('aaaa0002aaaa0002'));
  });

  test('B130: an ICMP error about a packet that passed reaches the guest', async () => {
    await filter('pass out', 'block in');
    const ask = `python3 -c "import socket; s=socket.socket(2,2); s.settimeout(60); s.connect(('${INTERNET}',9)); s.send(b'x')\ntry: s.recv(9)\nexcept ConnectionRefusedError: print('refused')"`;
    expect((await vm1.ask(ask))?.trim()).toBe('refused');
  });

  test('B130: IPv6 of a VM with a filter ends at neighbour discovery', async () => {
    const link = (g: Namespace) => `${/inet6 (fe80\S+)\//.exec(g.run('ip -6 addr show dev eth0'))?.[1]}%eth0`;
    await filter();
    await until('IPv6 works without', async () => (await vm1.ask(`ping -6 -c1 -W1 -q ${link(vm2)}`)) !== null);
    await filter('pass any');
    expect(await vm1.ask(`ping -6 -c1 -W1 -q ${link(vm2)}`)).toBeNull();
    expect(await vm2.ask(`ping -6 -c1 -W1 -q ${link(vm1)}`)).toBeNull();
    expect(vm2.run('ip -6 neigh')).toMatch(/fe80.* lladdr/);
  });

  test('B130: explain names the line, for what the VM sends and what it receives', async () => {
    await filter('# two lines', `block out proto tcp to ${INTERNET} port 8081`, 'block in to port 8080', 'block local');
    expect(await explain('tcp', null, INTERNET, 8081)).toMatchObject({
      verdict: 'dropped',
      rule: `filter line 2: block out proto tcp to ${INTERNET} port 8081`,
    });
    expect(await explain('tcp', null, INTERNET, 8080)).toMatchObject({ verdict: 'allowed' });
    expect(await explain('tcp', OUTSIDE, HOST, 10001)).toMatchObject({ verdict: 'dropped', rule: 'filter line 3: block in to port 8080' });
    expect(await explain('tcp', null, ip2, 8080)).toMatchObject({ verdict: 'dropped', rule: 'filter line 4: block local' });
    expect(await explain('tcp', ip2, ip1, 8081)).toMatchObject({ verdict: 'dropped', rule: 'filter line 4: block local' });
    expect(await explain('udp', null, GW, 53)).toMatchObject({ verdict: 'allowed' });
  });

  test('B130, B90: the filter is in force again after its engine or its rules were removed', async () => {
    await filter('pass out to port 8080', 'pass out from any to 192.168.64.2/31', 'block any');
    await e.kill();
    if (t.kind === 'kernel') w.host.run('nft flush ruleset');
    e = new RemoteEngine(w, t.kind);
    await filter('pass out to port 8080', 'block any');
    await until('what may pass does', async () => (await greet(vm1, 'tcp', INTERNET, 8080)).includes('sees'));
    expect(await greet(vm1, 'tcp', INTERNET, 8081)).not.toMatch(/sees/);
    if (t.kind === 'user') return;
    w.host.run('nft delete table bridge anka_filter');
    await until('it is repaired', () => w.host.attempt('nft list table bridge anka_filter') !== null);
    expect(await greet(vm1, 'tcp', INTERNET, 8081)).not.toMatch(/sees/);
  });

  test('B130: off: everything passes again', async () => {
    await filter('block any');
    expect(await pings(vm1, GW)).toBe(false);
    expect(await e.apply(desired(null))).toEqual([]);
    expect(await pings(vm1, GW)).toBe(true);
    expect(await greeting(w.outside, 'tcp', HOST, 10001)).toMatch(/vm1 sees/);
    if (t.kind === 'kernel') expect(w.host.run('nft list tables')).not.toContain('anka_filter');
  });
});

/** An IPv4 header with a field of fragments, in hex. */
function headerOf(source: string, destination: string, protocol: number, fragment: string, payload: number): string {
  const h = Buffer.from(`450000001234${fragment}40000000${ipv4Hex(source)}${ipv4Hex(destination)}`, 'hex');
  h.writeUInt16BE(20 + payload, 2);
  h[9] = protocol;
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += h.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  h.writeUInt16BE(~sum & 0xffff, 10);
  return h.toString('hex');
}
