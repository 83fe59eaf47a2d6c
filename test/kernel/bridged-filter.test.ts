/** Packet filters of bridged VMs (B130): by eBPF, by macvlan, and in a VLAN. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { greet, greeting, guest, nic, serve, state, vmId } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { putInVlan } from '../world/vlan.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns');
const OUTSIDE = '10.9.0.1';
const HOST = '10.9.0.2';

describe.skipIf(why !== null).each([
  ['eBPF', 'usual'],
  ['macvlan', 'no-ebpf'],
] as const)(`filters of bridged VMs by %s${why ? ` (${why})` : ''}`, (method, rights) => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;

  const filtered = (vlan: object, ...lines: string[]) =>
    state(nic(1, 'bridge', { bridge: 'en0', filter: lines.join('\n'), ...vlan }), nic(2, 'bridge', { bridge: 'en0' }));
  const filter = async (...lines: string[]): Promise<void> => expect(await e.apply(filtered({}, ...lines))).toEqual([]);
  const drops = async (): Promise<number> => (await e.stats()).find((x) => x.id === vmId(1))?.drops['filter'] ?? 0;

  beforeAll(async () => {
    w = new World('bf-');
    const [one, two] = [1, 2].map((n) => guest(w, n)) as [Namespace, Namespace];
    vm1 = one;
    e = new RemoteEngine(w, 'kernel', rights);
    expect(await e.apply(filtered({}, ''))).toEqual([]);
    one.run('ip addr add 10.9.0.11/24 dev eth0');
    two.run('ip addr add 10.9.0.12/24 dev eth0');
    await serve(w.outside, 8080, 'outside');
    await serve(w.host, 8081, 'host');
    await serve(one, 8080, 'vm1');
    await serve(two, 8080, 'vm2');
    await vm1.reaches(OUTSIDE);
    await vm1.reaches('10.9.0.12');
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    expect(w.host.run('nft list ruleset; ip -o link'), 'nothing is left').not.toContain('anka');
    w.close();
  });

  test('B130: in, out and answers', async () => {
    await filter('pass out proto tcp to 10.9.0.0/24 port 8080', 'block any');
    expect(await greeting(vm1, 'tcp', OUTSIDE, 8080)).toMatch(/outside sees/);
    const blocked = await Promise.all([greet(vm1, 'udp', OUTSIDE, 8080), greet(w.outside, 'tcp', '10.9.0.11', 8080)]);
    expect(blocked.filter((b) => b.includes('sees'))).toEqual([]);
    expect(await drops()).toBeGreaterThan(1);
    await filter('block in proto udp');
    expect(await greeting(w.outside, 'tcp', '10.9.0.11', 8080)).toMatch(/vm1 sees/);
    expect(await greet(w.outside, 'udp', '10.9.0.11', 8080)).not.toMatch(/sees/);
  });

  test('B130: local is this host and its VMs, and not the network', async () => {
    await filter('block local');
    expect(await greeting(vm1, 'udp', OUTSIDE, 8080)).toMatch(/outside sees/);
    expect(await greeting(w.outside, 'tcp', '10.9.0.11', 8080)).toMatch(/vm1 sees/);
    const blocked = await Promise.all([greet(vm1, 'tcp', '10.9.0.12', 8080), greet(vm1, 'tcp', HOST, 8081), greet(w.host, 'tcp', '10.9.0.11', 8080)]);
    expect(blocked.filter((b) => b.includes('sees'))).toEqual([]);
    await filter('pass any');
    await until('the other VM is reached', async () => (await greet(vm1, 'tcp', '10.9.0.12', 8080)).includes('sees'));
    if (method === 'eBPF') expect(await greeting(w.host, 'tcp', '10.9.0.11', 8080)).toMatch(/vm1 sees/);
  });

  test.skipIf(method !== 'eBPF')('B130: in a VLAN', async () => {
    putInVlan(w, w.outside, 'ext0', 20);
    expect(await e.apply(filtered({ vlan: 20 }, 'pass out to port 8080', 'block any'))).toEqual([]);
    await until('the VLAN is reached', async () => (await greet(vm1, 'tcp', OUTSIDE, 8080)).includes('sees'));
    const before = await drops();
    expect(await greet(w.outside, 'tcp', '10.9.0.11', 8080)).not.toMatch(/sees/);
    expect(await vm1.ask('ping -c1 -W1 10.9.0.1')).toBeNull();
    expect(await drops()).toBeGreaterThan(before + 1);
  });
});
