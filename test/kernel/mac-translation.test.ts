/**
 * Translation of MAC addresses on the kernel engine (B40–B43), with namespaces as guests: two with the same inside
 * address on one network, with our DHCP server and a foreign one; hand-made frames with the address at every offset,
 * byte for byte; loss and repair; and spoofed neighbour discovery (B91).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DesiredState } from '../../src/engine/engine.ts';
import { dhcp, guest, macText, nic, state, vmId } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { badPackets, Sniffer, sendRaw } from '../world/sniffer.ts';
import { putInVlan } from '../world/vlan.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';
import { CRAFTED, INBOUND } from './frames.ts';

const INSIDE = '525400aabbcc';
const INSIDE_NUMBER = 0x525400aabbcc;
const INSIDE_TEXT = '52:54:00:aa:bb:cc';
const outside = (n: number): string => macText(n).replaceAll(':', '');
const PROBE = '02aaaaaaaa01';

const why = missing('root', 'netns');
describe.skipIf(why !== null)(`translation of MAC addresses${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  let vm3: Namespace;
  let probe: Namespace;

  const same = { insideMac: INSIDE_NUMBER };
  const shared = (): DesiredState => state(nic(1, 'shared', same), nic(2, 'shared', same), nic(3));
  const bridged = (): DesiredState => state(nic(1, 'bridge', { ...same, bridge: 'br-ext' }), nic(2, 'bridge', { ...same, bridge: 'br-ext' }), nic(3));
  const drops = async (n: number, reason: string): Promise<number> => (await e.stats()).find((x) => x.id === vmId(n))?.drops[reason] ?? 0;
  /** Each frame counts as one drop; the counters restart when rules change. */
  const counted = (n: number, reason: string, from: Namespace, frame: string): Promise<boolean> =>
    until(`${reason} is counted`, async () => {
      const before = await drops(n, reason);
      await sendRaw(from, 'eth0', [frame]);
      return (await drops(n, reason)) === before + 1;
    });
  const filters = (n: number): string => w.host.run(`tc -j filter show dev anka0000000${n} ingress; tc -j filter show dev anka0000000${n} egress`);
  const programs = (n: number): string[] => [...filters(n).matchAll(/"id":(\d+)/g)].map((m) => m[1] as string);

  beforeAll(async () => {
    w = new World('tm-');
    vm1 = w.guest('g1', 'anka00000001', INSIDE_TEXT);
    vm2 = w.guest('g2', 'anka00000002', INSIDE_TEXT);
    vm3 = guest(w, 3);
    // a foreign network: a bridge with a server for DHCP and router advertisements, and a station that listens
    w.host.run('ip link add br-ext type bridge stp_state 0 forward_delay 0 mcast_snooping 0 && ip link set br-ext mtu 65535 up');
    w.host.attempt('sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0');
    w.host.run(`ip link add srv0 netns ${w.host.name} type veth peer name net0 netns ${w.outside.name}; ip link set srv0 master br-ext up`);
    w.outside.run('ip link set net0 up; ip addr add 10.77.0.1/24 dev net0; ip addr add fd77::1/64 dev net0 nodad');
    probe = w.guest('p', 'prb0', '02:aa:aa:aa:aa:01');
    w.host.run('ip link set prb0 mtu 65535 master br-ext up');
    probe.run('ip link set eth0 mtu 65535; sysctl -qw net.ipv6.conf.eth0.accept_ra=0');
    // guests compute checksums in software, so that tshark can verify them, and have fixed addresses of their own on
    // IPv6
    for (const g of [vm1, vm2]) {
      g.run('ip link set eth0 down; sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=3; ip link set eth0 up');
      g.run('ethtool -K eth0 tx off');
    }
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(shared())).toEqual([]);
    w.host.run('ethtool -K anka-shared tx off; ethtool -K br-ext tx off');
    w.outside.run('ethtool -K net0 tx off');
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  /** The guest's global IPv6 address. */
  const global6 = (g: Namespace): string | undefined => /inet6 (fd77:\S+)\/64/.exec(g.run('ip -6 addr show dev eth0 scope global -tentative'))?.[1];

  async function talk(a: Namespace, b: Namespace, addresses: readonly (readonly [string, string])[]): Promise<void> {
    for (const [ofA, ofB] of addresses) {
      await until(`${ofB} is reachable`, () => a.pings(ofB));
      await b.reaches(ofA);
    }
  }

  test('B41, B42: two guests with one address on shared: each has its own lease from our server; IPv4 and IPv6 between them; the address never appears outside', async () => {
    const bridge = await Sniffer.start(w, w.host, 'anka-shared');
    const inner = await Sniffer.start(w, vm1, 'eth0');
    const a = await dhcp(w, vm1);
    const b = await dhcp(w, vm2);
    expect(a?.ip).toMatch(/^192\.168\.64\./);
    expect(b?.ip).toMatch(/^192\.168\.64\./);
    expect(a?.ip).not.toBe(b?.ip);
    vm1.run('ip addr add fd64::101/64 dev eth0');
    vm2.run('ip addr add fd64::102/64 dev eth0');
    w.host.run('ip addr add fd64::1/64 dev anka-shared nodad');
    await talk(vm1, vm2, [
      [a?.ip as string, b?.ip as string],
      ['fd64::101', 'fd64::102'],
    ]);
    for (const g of [vm1, vm2]) {
      await g.reaches('198.51.100.1');
      await g.reaches('fd64::1');
    }
    expect(w.host.run('ip neigh show dev anka-shared')).not.toContain(INSIDE_TEXT);
    expect(vm1.run('ip neigh show dev eth0; cat /sys/class/net/eth0/address')).toContain(macText(2));
    const seen = await bridge.stop();
    expect(seen.includes(Buffer.from(outside(1), 'hex'))).toBe(true);
    expect(seen.includes(Buffer.from(INSIDE, 'hex')), 'the inside address on the bridge').toBe(false);
    const inwards = await inner.stop();
    expect(inwards.includes(Buffer.from(INSIDE, 'hex'))).toBe(true);
    expect(inwards.includes(Buffer.from(outside(1), 'hex')), 'the outside address in the guest').toBe(false);
    expect(badPackets(w.host, inner.file)).toEqual([]);
    expect(badPackets(w.host, bridge.file)).toEqual([]);
  });

  test('B16, B42: on a foreign network: each has its own lease from the foreign server and an address by router advertisement, and both communicate', async () => {
    expect(await e.apply(bridged())).toEqual([]);
    for (const g of [vm1, vm2]) g.run('ip -4 addr flush dev eth0; ip -6 addr flush dev eth0 scope global');
    const leases = join(w.dir, 'foreign.leases');
    const seen = await Sniffer.start(w, probe, 'eth0');
    const all = await Sniffer.start(w, w.host, 'br-ext');
    w.outside.spawn([
      ...['dnsmasq', '-k', '--conf-file=/dev/null', '--pid-file=', '--user=root', '--port=0', '--interface=net0', '--bind-interfaces', '--no-ping'],
      ...[`--dhcp-leasefile=${leases}`, '--dhcp-range=10.77.0.10,10.77.0.99,1h', '--dhcp-option=6,10.77.0.1', '--enable-ra', '--dhcp-range=fd77::,ra-only'],
    ]);
    const a = await dhcp(w, vm1);
    const b = await dhcp(w, vm2);
    expect(a).toMatchObject({ server: '10.77.0.1' });
    expect(b).toMatchObject({ server: '10.77.0.1' });
    expect(a?.ip).not.toBe(b?.ip);
    const leaseText = readFileSync(leases, 'utf8');
    for (const n of [1, 2]) expect(leaseText).toContain(`${macText(n)} 10.77.0.`);
    expect(leaseText, 'client identifiers too').toContain(`01:${macText(2)}`);
    expect(leaseText).not.toContain(INSIDE_TEXT);
    const a6 = await until('vm1 has an address by advertisement', () => global6(vm1));
    const b6 = await until('vm2 has an address by advertisement', () => global6(vm2));
    expect(a6).not.toBe(b6);
    await talk(vm1, vm2, [
      [a?.ip as string, b?.ip as string],
      [a6, b6],
    ]);
    await w.outside.reaches(a6);
    expect(w.outside.run('ip neigh show dev net0')).not.toContain(INSIDE_TEXT);
    for (const s of [seen, all]) expect((await s.stop()).includes(Buffer.from(INSIDE, 'hex'))).toBe(false);
    expect(badPackets(w.host, all.file)).toEqual([]);
  });

  test('B41, B42: the same in a VLAN of that network: leases, router advertisements and traffic, all in tagged frames without the inside address', async () => {
    const vlan = 42;
    // the foreign server tags all that it sends with the VLAN, and receives only that VLAN
    putInVlan(w, w.outside, 'net0', vlan);
    const tagged = (n: number) => nic(n, 'bridge', { ...same, bridge: 'br-ext', vlan });
    expect(await e.apply(state(tagged(1), tagged(2), nic(3)))).toEqual([]);
    const all = await Sniffer.start(w, w.host, 'br-ext');
    // after a link bounce, a guest solicits routers again
    for (const g of [vm1, vm2]) g.run('ip -4 addr flush dev eth0; ip link set eth0 down; ip link set eth0 up');
    const [a, b] = [await dhcp(w, vm1), await dhcp(w, vm2)];
    for (const lease of [a, b]) expect(lease).toMatchObject({ server: '10.77.0.1' });
    expect(a?.ip).not.toBe(b?.ip);
    const a6 = await until('vm1 has an address by advertisement', () => global6(vm1));
    const b6 = await until('vm2 has an address by advertisement', () => global6(vm2));
    await talk(vm1, vm2, [
      [a?.ip as string, b?.ip as string],
      [a6, b6],
    ]);
    await w.outside.reaches(a6);
    expect(w.outside.run('ip neigh show dev net0')).not.toContain(INSIDE_TEXT);
    const bytes = await all.stop();
    expect(bytes.includes(Buffer.from(INSIDE, 'hex'))).toBe(false);
    for (const n of [1, 2]) {
      const from = all.frames().filter((f) => f.slice(12, 24) === outside(n));
      expect(from.length, `frames of vm${n}`).toBeGreaterThan(10);
      expect(from.filter((f) => f.slice(24, 32) !== '8100002a')).toEqual([]);
      const advertises = new RegExp(`^.{24}8100002a86dd.{80}8[78].*0[12]01${outside(n)}`);
      expect(
        from.some((f) => advertises.test(f)),
        `vm${n}’s own address is advertised by neighbour discovery`,
      ).toBe(true);
    }
    expect(badPackets(w.host, all.file)).toEqual([]);
    w.outside.run('tc qdisc del dev net0 clsact');
    expect(await e.apply(bridged())).toEqual([]);
  });

  /** Sends frames from one namespace and returns those that arrive at another, up to a known last frame. */
  async function pass(from: Namespace, frames: readonly string[], last: { sent: string; seen: string }, at: Namespace): Promise<string[]> {
    const s = await Sniffer.start(w, at, 'eth0');
    await sendRaw(from, 'eth0', [...frames, last.sent]);
    await until('the last frame arrived', () => s.frames().includes(last.seen));
    await s.stop();
    return s.frames();
  }
  const last = (mac: string): string => `ffffffffffff${mac}88b6${'ee'.repeat(46)}`;

  test('B41: hand-made frames from a guest, byte for byte: tags, odd offsets, fragments, jumbo and truncated frames', async () => {
    // the engine would reset the MTU
    await e.kill();
    // the guard would drop frames with a foreign address, which the translation leaves alone
    w.host.run('nft delete table bridge anka');
    w.host.run('ip link set anka00000001 mtu 65535');
    vm1.run('ip link set eth0 mtu 65535');
    const arrived = await pass(
      vm1,
      CRAFTED.map((f) => f.build(INSIDE, PROBE)),
      { sent: last(INSIDE), seen: last(outside(1)) },
      probe,
    );
    for (const f of CRAFTED) expect(arrived.includes(f.build(outside(1), PROBE)), f.name).toBe(true);
  });

  test('B41: hand-made frames to a guest, byte for byte; a foreign station with the inside address is left alone', async () => {
    const foreign = `${INSIDE}${PROBE}88b5${'dd'.repeat(46)}`;
    const arrived = await pass(probe, [foreign, ...INBOUND.map((f) => f.build(outside(1), PROBE))], { sent: last(PROBE), seen: last(PROBE) }, vm1);
    for (const f of INBOUND) expect(arrived.includes(f.build(INSIDE, PROBE)), f.name).toBe(true);
    expect(arrived).not.toContain(foreign);
  });

  test('B91: a guest that sends from a foreign address is not translated, and dropped', async () => {
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(bridged())).toEqual([]);
    vm1.run('ip link set eth0 mtu 1500');
    await counted(1, 'mac_spoof', vm1, `ffffffffffff02000000009988b5${'00'.repeat(46)}`);
  });

  describe('B91: spoofed neighbour discovery is dropped and counted', () => {
    const gateway = 'fe80000000000000584545fffe004001';
    const target = `fe80${'00'.repeat(13)}99`;
    const nd = (mac: string, type: string, body: string): string =>
      `333300000001${mac}86dd60000000${((body.length + 8) / 2).toString(16).padStart(4, '0')}3aff${`fe80${'00'.repeat(13)}77`}ff02${'00'.repeat(13)}01${type}000000${body}`;
    const foreign = '020000000099';
    const cases: [what: string, n: number, frame: (mac: string) => string][] = [
      ['solicitation with another’s address', 3, (m) => nd(m, '87', `00000000${target}0101${foreign}`)],
      ['solicitation, the spoofed option after a nonce', 3, (m) => nd(m, '87', `00000000${target}0e01a1a2a3a4a5a60101${foreign}`)],
      ['solicitation, the spoofed option after the true one', 3, (m) => nd(m, '87', `00000000${target}0101${m}0101${foreign}`)],
      ['advertisement with another’s address', 3, (m) => nd(m, '88', `60000000${target}0201${foreign}`)],
      ['router solicitation with a foreign address', 3, (m) => nd(m, '85', `000000000101${foreign}`)],
      ['more options than any real packet has', 3, (m) => nd(m, '88', `60000000${target}${'0e01a1a2a3a4a5a6'.repeat(30)}0201${foreign}`)],
      ['advertisement of the gateway’s address', 3, (m) => nd(m, '88', `60000000${gateway}0201${m}`)],
      ['advertisement with a foreign address, of a translated card', 1, (m) => nd(m, '88', `60000000${target}0201${foreign}`)],
    ];
    beforeAll(async () => {
      expect(await e.apply(shared())).toEqual([]);
    });
    test.each(cases)('%s', async (_what, n, frame) => {
      const mac = n === 1 ? INSIDE : outside(n);
      await counted(n, 'nd_spoof', n === 1 ? vm1 : vm3, frame(mac));
    });
    test('the gateway’s address as a source', async () => {
      await counted(3, 'ip_spoof', vm3, `333300000001${outside(3)}86dd6000000000083aff${gateway}ff02${'00'.repeat(13)}018000000000000000`);
    });
    test('honest guests keep working', async () => {
      vm3.run('ip addr replace fd64::103/64 dev eth0');
      vm1.run('ip addr replace fd64::101/64 dev eth0');
      const before = [await drops(1, 'nd_spoof'), await drops(3, 'nd_spoof')];
      await talk(vm1, vm3, [['fd64::101', 'fd64::103']]);
      expect([await drops(1, 'nd_spoof'), await drops(3, 'nd_spoof')]).toEqual(before);
    });
  });

  describe('B90: a lost translation is restored without a command, and nothing leaks meanwhile', () => {
    const damages: [what: string, command: string][] = [
      ['the hooks removed', 'tc qdisc del dev anka00000001 clsact'],
      ['one filter removed', 'tc filter del dev anka00000001 egress'],
      [
        'another program in its place',
        `tc filter replace dev anka00000001 ingress pref 1 handle 1 bpf da object-file assets/bpf/mac-translate.bpf.o section tc/to_guest`,
      ],
    ];
    test.each(damages)('%s', async (_what, command) => {
      expect((await dhcp(w, vm1))?.ip).toBeTruthy();
      await vm1.reaches('192.168.64.1');
      const s = await Sniffer.start(w, w.host, 'anka-shared');
      const traffic = vm1.spawn(['ping', '-i', '0.02', '-q', '192.168.64.1']);
      w.host.run(command);
      const since = Date.now();
      await until('the gateway is reachable again', () => vm1.attempt('ping -c1 -W0.2 -q 192.168.64.1') !== null);
      console.log(`    recovered in ${Date.now() - since} ms`);
      traffic.kill();
      expect((await s.stop()).includes(Buffer.from(INSIDE, 'hex'))).toBe(false);
      expect(filters(1)).toContain(`anka-mac-${INSIDE}-${outside(1)}.o:[tc/from_guest]`);
    });
  });

  test('B6, B41: after kill -9 of the daemon translations keep working, and are adopted unchanged', async () => {
    for (const g of [vm1, vm2]) expect((await dhcp(w, g))?.ip).toBeTruthy();
    const before = [...programs(1), ...programs(2)];
    expect(before).toHaveLength(4);
    await e.kill();
    await vm1.reaches('192.168.64.1');
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(shared())).toEqual([]);
    expect([...programs(1), ...programs(2)], 'the same programs, as their tags were recognized').toEqual(before);
    await e.kill();
    w.host.run(
      'tc filter replace dev anka00000001 ingress pref 1 handle 1 bpf da object-file assets/bpf/mac-translate.bpf.o section tc/to_guest; tc qdisc del dev anka00000002 clsact',
    );
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(shared())).toEqual([]);
    for (const g of [vm1, vm2]) await g.reaches('192.168.64.1', 'damage done meanwhile is repaired');
  });

  test('B41: TCP in super-segments of the kernel (GSO) passes both directions, byte for byte, in frames longer than the MTU', async () => {
    for (const g of [vm1, vm2]) expect((await dhcp(w, g))?.ip).toBeTruthy();
    const address = (/inet (192\.168\.64\.\d+)/.exec(vm2.run('ip -4 addr show dev eth0')) as RegExpExecArray)[1];
    for (const g of [vm1, vm2]) g.run('ethtool -K eth0 tx on tso on gso on gro on');
    const s = await Sniffer.start(w, vm2, 'eth0 tcp port 5000');
    const size = 32 << 20;
    const program = `
      const { createHash, randomBytes } = require('crypto'), net = require('net');
      const through = (s, send, done) => { const h = createHash('sha256'); s.on('data', (d) => h.update(d)); s.on('end', () => done(h.digest('hex'))); if (send) s.end(send); };`;
    const server = vm2.spawn([
      process.execPath,
      '-e',
      `${program} net.createServer({ allowHalfOpen: true }, (s) => { const all = []; s.on('data', (d) => all.push(d)); s.on('end', () => s.end(Buffer.concat(all))); }).listen(5000, () => console.log('ready'));`,
    ]);
    await new Promise((resolve) => server.stdout?.once('data', resolve));
    const same32 = await vm1.ask(
      `${process.execPath} -e "${program.replaceAll('"', "'")} const b = randomBytes(${size}), s = net.connect({ host: '${address}', port: 5000, allowHalfOpen: true }); through(s, b, (d) => console.log(d === createHash('sha256').update(b).digest('hex')));"`,
    );
    expect(same32?.trim()).toBe('true');
    server.kill();
    await s.stop();
    expect(Math.max(...s.frames().map((f) => f.length / 2))).toBeGreaterThan(1514);
    for (const g of [vm1, vm2]) g.run('ethtool -K eth0 tx off');
  });

  test('B40, B43: new addresses of a card replace the old ones; without --mac nothing is translated', async () => {
    expect(
      await e.apply(state(nic(1, 'bridge', { ...same, bridge: 'br-ext', outsideMac: 0x564545000009 }), nic(2, 'bridge', { bridge: 'br-ext' }), nic(3))),
    ).toEqual([]);
    expect(filters(1)).toContain(`anka-mac-${INSIDE}-564545000009.o`);
    expect(filters(2)).not.toContain('anka-mac');
  });

  test('B41: a card whose address cannot be translated is not attached, and the reason is reported', async () => {
    // a foreign ingress qdisc occupies the slot of clsact
    const vm4 = w.guest('g4', 'anka00000004', INSIDE_TEXT);
    w.host.run('tc qdisc add dev anka00000004 ingress');
    const problems = await e.apply({ ...shared(), nics: [...shared().nics, nic(4, 'shared', same)] });
    expect(problems).toMatchObject([
      {
        object: `nic:${vmId(4)}`,
        message: expect.stringMatching(/^its MAC address cannot be translated, so it is not attached: adding clsact to anka00000004: /),
      },
    ]);
    expect(w.host.run('ip -o link show dev anka00000004')).not.toContain('master');
    expect((await e.observe()).nics.find((n) => n.id === vmId(4))?.healthy).toBe(false);
    await vm1.reaches('192.168.64.1', 'the others are attached');
    w.host.run('tc qdisc del dev anka00000004 ingress');
    await until('it is attached', () => w.host.run('ip -o link show dev anka00000004').includes('master anka-shared'));
    expect((await dhcp(w, vm4))?.ip).toBeTruthy();
  });
});
