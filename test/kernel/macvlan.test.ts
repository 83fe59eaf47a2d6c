/**
 * Bridge type on a host where eBPF is not available (B16, B19): an engine without the permission to load it, two
 * guests, an outside with its own DHCP server.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DesiredState } from '../../src/engine/engine.ts';
import { cardBridgeNames } from '../../src/engine/kernel/names.ts';
import { dhcp, greeting, guest, ipv4Hex, macText, nic, sendFrames, serve, state, vmId } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { answered, missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns');

describe.skipIf(why !== null)(`bridge type without eBPF${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  let ip1 = '';
  let ip2 = '';
  let leases: string;
  let bare = '';

  const bridged = (n: number, rest: object = {}) => nic(n, 'bridge', { bridge: 'en0', ...rest });
  const observedNic = async (n: number) => (await e.observe()).nics.find((x) => x.id === vmId(n));
  const dropsOf = async (n: number): Promise<Record<string, number>> => (await e.stats()).find((x) => x.id === vmId(n))?.drops ?? {};
  const onHost = (): string =>
    w.host.run(
      'ip -4 -o addr show en0 | grep -o "en0 .*"; ip route; ip -o -d link show en0 | grep -oE "<[^>]*>|promiscuity [0-9]+"; tc qdisc show dev en0; true',
    );
  const bridgePort = cardBridgeNames(vmId(1)).bridgePort;

  beforeAll(async () => {
    w = new World('mv-');
    leases = join(mkdtempSync(join(tmpdir(), 'anka-dnsmasq-')), 'leases');
    bare = onHost();
    [vm1, vm2] = [1, 2].map((n) => guest(w, n)) as [Namespace, Namespace];
    e = new RemoteEngine(w, 'kernel', 'no-ebpf');
    w.outside.spawn([
      ...['dnsmasq', '-k', '--conf-file=/dev/null', '--no-ping', '--port=0', '--interface=ext0', '--bind-interfaces', '--dhcp-range=10.9.0.100,10.9.0.199,1h'],
      ...['--dhcp-option=3,10.9.0.1', '--dhcp-option=6,10.9.0.1', `--dhcp-leasefile=${leases}`, `--pid-file=${leases}.pid`, '--log-facility=/dev/null'],
    ]);
    await serve(w.outside, 8080, 'outside');
    await serve(w.host, 8081, 'host');
    await serve(vm1, 8080, 'vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    const left = w.host
      .run('ip -o link; nft list ruleset')
      .split('\n')
      .filter((l) => l.includes('anka'));
    expect(left, 'nothing is left after reset').toEqual([]);
    w.close();
    rmSync(join(leases, '..'), { recursive: true });
  });

  test('B16, B19, B52: VMs are full members of the outside network, the host stays connected, and the limit is reported', async () => {
    expect(await e.apply(state(bridged(1), bridged(2)))).toEqual([]);
    expect(w.host.run('ip -o -d link show type macvlan').split('\n').length - 1).toBe(2);
    expect(w.host.run('tc qdisc show dev en0')).not.toContain('clsact');
    const a = await dhcp(w, vm1);
    const b = await dhcp(w, vm2);
    expect(a).toMatchObject({ server: '10.9.0.1', router: '10.9.0.1' });
    ip1 = a?.ip ?? '';
    ip2 = b?.ip ?? '';
    expect(ip2).not.toBe(ip1);
    expect(await greeting(vm1, 'tcp', '10.9.0.1', 8080)).toBe(`outside sees ${ip1}`);
    expect(await greeting(w.outside, 'tcp', ip1, 8080)).toBe('vm1 sees 10.9.0.1');
    expect(await greeting(vm2, 'tcp', ip1, 8080)).toBe(`vm1 sees ${ip2}`);
    expect(w.outside.run(`ip neigh show ${ip1}`)).toContain(macText(1));
    expect(await greeting(w.host, 'tcp', '10.9.0.1', 8080)).toBe('outside sees 10.9.0.2');
    const seen = await until('the engine reports the address', async () => {
      const n = await observedNic(1);
      return n?.ip && n.healthy ? n : null;
    });
    expect([24, 16, 8, 0].map((s) => ((seen.ip as number) >>> s) & 255).join('.')).toBe(ip1);
    expect(seen.limit).toBe('bridged to en0 by macvlan, as eBPF is not available: it and this host cannot reach each other');
    expect(await answered([vm1, '10.9.0.2'], [w.host, ip1]), 'the limit holds').toEqual([]);
    const stats = (await e.stats()).find((s) => s.id === vmId(1));
    expect(stats?.rxPackets).toBeGreaterThan(0);
    expect(stats?.txPackets).toBeGreaterThan(0);
  });

  test('B93: a capture of such a card shows its frames', async () => {
    const program = ['--import', 'tsx', fileURLToPath(new URL('../world/capture-process.ts', import.meta.url))];
    const capture = w.host.spawn([process.execPath, ...program, JSON.stringify(bridged(1)), 'outside', 'icmp']);
    let text = '';
    capture.stdout?.on('data', (d: Buffer) => {
      text += d.toString();
    });
    await until('the capture started', () => text.includes('ready'));
    await vm1.reaches('10.9.0.1');
    await until('both directions are captured', () => /"outbound":true/.test(text) && /"outbound":false/.test(text));
    capture.stdin?.end();
  });

  test('B93: doctor reports it, with a remedy', async () => {
    const found = await e.doctor();
    expect(found.find((f) => f.id === 'bridge.macvlan')).toMatchObject({
      level: 'warning',
      message: expect.stringMatching(/^vm1 is bridged to en0 by macvlan/),
    });
    expect(found.find((f) => f.id === 'rights.ebpf')).toMatchObject({ level: 'warning', message: expect.stringContaining('EPERM') });
    expect(found.find((f) => f.id === 'leftovers')).toMatchObject({ level: 'ok' });
  });

  test('B30, B43: options that need eBPF are refused by name, before anything changes', async () => {
    const refusal = async (rest: object): Promise<string | undefined> => (await e.validate(state(bridged(1, rest)) as DesiredState))[0]?.message;
    expect(await refusal({ insideMac: 0x020000000001 })).toBe(
      "--mac cannot be used on this host: it needs eBPF to translate the MAC address, and eBPF is not available (EPERM); 'anka modify vm1 set network-card --no-mac' removes it",
    );
    expect(await refusal({ vlan: 42 })).toMatch(/^--vlan cannot be used on this host: .*'anka modify vm1 set network-card --vlan none' removes it$/);
    expect(await refusal({})).toBeUndefined();
  });

  test('B91: frames with a foreign MAC or the host’s address are dropped, and frames that would shut down a switch port', async () => {
    const arp = (mac: string, ip: string): string => `ffffffffffff${mac}08060001080006040001${mac}${ipv4Hex(ip)}000000000000${ipv4Hex('10.9.0.1')}`;
    const own = macText(1).replaceAll(':', '');
    const forbidden = `ether dst 01:80:c2:00:00:00 or ether src 56:45:45:00:00:09 or (arp[14:4] = 0x0a090002 and ether src ${macText(1)})`;
    const tcpdump = w.outside.spawn(['tcpdump', '-lnei', 'ext0', `icmp or ${forbidden}`]);
    let text = '';
    tcpdump.stdout?.on('data', (d: Buffer) => {
      text += d.toString();
    });
    await until('tcpdump captures', () => vm1.pings('10.9.0.1') && text !== '');
    await sendFrames(vm1, [arp('564545000009', '10.9.0.99'), arp(own, '10.9.0.2'), `0180c2000000${own}002642420300${'00'.repeat(40)}`]);
    await until('all are counted', async () => {
      const drops = await dropsOf(1);
      return (drops['mac_spoof'] ?? 0) >= 1 && (drops['arp_spoof'] ?? 0) >= 1 && (drops['ethertype'] ?? 0) >= 1;
    });
    const before = text.length;
    await until('the next ping is captured', () => vm1.pings('10.9.0.1') && text.length > before);
    expect(text.split('\n').filter((l) => l !== '' && !l.includes('ICMP echo'))).toEqual([]);
    tcpdump.kill('SIGKILL');
  });

  test('B30: --no-local isolates it from other VMs, not from the outside', async () => {
    expect(await e.apply(state(bridged(1, { isolated: true }), bridged(2)))).toEqual([]);
    await vm1.reaches('10.9.0.1');
    await w.outside.reaches(ip1);
    expect(await answered([vm1, ip2], [vm2, ip1])).toEqual([]);
    expect(await e.apply(state(bridged(1), bridged(2)))).toEqual([]);
    await vm1.reaches(ip2, 'they meet again');
  });

  test('B22: to shared and back, live', async () => {
    expect(await e.apply(state(nic(1), bridged(2)))).toEqual([]);
    expect((await dhcp(w, vm1))?.ip).toMatch(/^192\.168\.64\./);
    expect((await observedNic(1))?.limit).toBeUndefined();
    expect(w.host.run('ip -o -d link show type macvlan').split('\n').length - 1).toBe(1);
    expect(await e.apply(state(bridged(1), bridged(2)))).toEqual([]);
    expect((await dhcp(w, vm1))?.ip).toBe(ip1);
    await vm1.reaches('10.9.0.1');
  });

  test('B6, B90: after kill -9 traffic continues; the next engine adopts everything, and repairs what is broken', async () => {
    const index = (): string => w.host.run(`cat /sys/class/net/${bridgePort}/ifindex`).trim();
    const before = index();
    await e.kill();
    await vm1.reaches('10.9.0.1');
    e = new RemoteEngine(w, 'kernel', 'no-ebpf');
    expect(await e.apply(state(bridged(1), bridged(2)))).toEqual([]);
    expect(index(), 'the same macvlan').toBe(before);
    await vm1.reaches('10.9.0.1');
    w.host.run(`ip link del ${bridgePort}`);
    await until('a deleted macvlan is created again', () => vm1.pings('10.9.0.1'));
    w.host.run(`ip link del ${cardBridgeNames(vmId(1)).bridge}`);
    await until('a deleted bridge is created again', () => w.outside.pings(ip1));
    w.host.run(`ip link set ${bridgePort} address 02:00:00:00:00:99`);
    await until('a changed address is restored', () => w.outside.pings(ip1));
  });

  test('B17, B90: the uplink is removed and returns', async () => {
    const mac = w.host.run('cat /sys/class/net/en0/address').trim();
    const gateway = w.outside.run('cat /sys/class/net/ext0/address').trim();
    w.host.run('ip link del en0');
    await until('the problem is reported', async () =>
      (await e.observe()).problems.some((p) => p.object === `nic:${vmId(1)}` && /en0 does not exist/.test(p.message)),
    );
    w.host.run(`ip link add en0 address ${mac} type veth peer name ext0 address ${gateway} netns ${w.outside.name}`);
    w.outside.run('ip addr add 10.9.0.1/24 dev ext0; ip link set ext0 up');
    w.host.run('ip addr add 10.9.0.2/24 dev en0; ip link set en0 up; ip route replace default via 10.9.0.1');
    await until('outside is reachable again', () => vm1.pings('10.9.0.1'));
    await until('no problem is left', async () => (await e.observe()).problems.length === 0);
    await vm1.reaches(ip2);
  });

  test('B16: bridge_method ebpf is refused here by name; where eBPF works, the method is changed live, in both directions', async () => {
    const problems = await e.apply({ ...state(bridged(1)), bridgeMethod: 'ebpf' });
    expect(problems.map((p) => p.object)).toEqual([`nic:${vmId(1)}`]);
    expect(problems[0]?.message).toMatch(/^en0 cannot be bridged as it is \(.*\); put en0 into a bridge, and name that bridge with -b$/);
    expect(await e.apply(state(bridged(1), bridged(2)))).toEqual([]);
    await vm1.reaches('10.9.0.1');
    await e.kill();
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply({ ...state(bridged(1), bridged(2)), bridgeMethod: 'macvlan' })).toEqual([]);
    expect((await observedNic(1))?.limit).toBe('bridged to en0 by macvlan: it and this host cannot reach each other');
    expect(w.host.pings(ip1)).toBe(false);
    expect(await e.apply(state(bridged(1), bridged(2)))).toEqual([]);
    await w.host.reaches(ip1, 'host and VM meet');
    expect((await observedNic(1))?.limit).toBeUndefined();
    expect(w.host.run('ip -o -d link show type macvlan')).toBe('');
    // with a custom MAC address, as eBPF at the tap does not depend on how the tap is bridged
    vm1.run('ip link set eth0 address 02:00:00:00:00:01');
    expect(await e.apply({ ...state(bridged(1, { insideMac: 0x020000000001 }), bridged(2)), bridgeMethod: 'macvlan' })).toEqual([]);
    await vm1.reaches('10.9.0.1');
    expect(w.outside.run(`ip neigh show ${ip1}`)).toContain(macText(1));
  });

  test('B19: nothing is left after the last bridged VM', async () => {
    expect(await e.apply({ networks: [], nics: [], dnsServers: [] })).toEqual([]);
    expect(onHost()).toBe(bare);
    expect(w.host.run('ip -o link')).not.toMatch(/anka-(br|pl|pt)/);
    await w.host.reaches('10.9.0.1');
  });
});
