/** The network process of the user engine when root is its user: what it may, whom it belongs to, and that it outlives the daemon with its flows (docs/decisions/0012). */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';
import { dhcp, flow, greet, greeting, macText, nic, rule, serve, state, vmId } from './guest-tools.ts';

const why = missing('root', 'netns', 'tun', 'cc');
const HOST = '10.9.0.2';
const OUT = '10.9.0.1';
/** As daemon/desired.ts gives them. */
const VM_UID = 1_640_000_001;

describe.skipIf(why !== null)(`the network process of root's user engine${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  const desired = () => state(nic(1, 'shared', { ownerUid: VM_UID, rules: [rule(80, 8080)] }), nic(2, 'host', { ownerUid: VM_UID + 1 }));
  const processes = (): { pid: number; line: string }[] =>
    w.host
      .run(`ip netns pids ${w.host.name} | while read p; do echo "$p $(tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; true`)
      .split('\n')
      .filter((l) => l.includes('network-main.'))
      .map((l) => ({ pid: Number(l.split(' ')[0]), line: l }));
  const pidOf = (name: string): number => processes().find((p) => p.line.includes(`net-${name}/`))?.pid ?? 0;

  beforeAll(async () => {
    w = new World('up-');
    e = new RemoteEngine(w, 'user', 'root');
    expect(await e.apply(desired())).toEqual([]);
    vm1 = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
    vm2 = await shimmedGuest(w, 'g2', macText(2), (await e.openNic(vmId(2))).path);
    await serve(w.outside, 8080, 'outside');
    await serve(vm1, 8080, 'vm1');
    expect((await dhcp(w, vm1))?.ip).toMatch(/^192\.168\.64\./);
    expect((await dhcp(w, vm2))?.ip).toMatch(/^192\.168\.128\./);
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    await until('no process is left', () => processes().length === 0);
    for (const path of ['run/nic', 'run/net-shared', 'run/net-host']) expect(existsSync(join(w.dir, path)), path).toBe(false);
    w.close();
  });

  test.each(['shared', 'host'])('the %s network’s process is a user of its own, who may listen on low ports, and nothing else', (name) => {
    const status = readFileSync(`/proc/${pidOf(name)}/status`, 'utf8');
    const uid = name === 'shared' ? 1_639_999_001 : 1_639_999_002;
    expect(status).toMatch(new RegExp(`^Uid:\\t${uid}\\t${uid}\\t${uid}\\t${uid}$`, 'm'));
    expect(status).toMatch(/^Gid:\t1639999000\t1639999000\t1639999000\t1639999000$/m);
    expect(status).toMatch(/^Groups:\s*$/m);
    for (const set of ['Eff', 'Prm']) expect(status).toMatch(new RegExp(`^Cap${set}:\\t0000000000000400$`, 'm'));
    expect(status).toMatch(/^CapInh:\t0+$/m);
    expect(status).toMatch(/^CapAmb:\t0+$/m);
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
  });

  test('B60: a rule for a port below 1024 works, one that comes later too', async () => {
    expect(await greeting(w.outside, 'tcp', HOST, 80)).toBe(`vm1 sees ${OUT}`);
    const more = state(nic(1, 'shared', { ownerUid: VM_UID, rules: [rule(80, 8080), rule(443, 8080)] }), nic(2, 'host', { ownerUid: VM_UID + 1 }));
    expect(await e.apply(more)).toEqual([]);
    await until('the new rule works', async () => (await greet(w.outside, 'tcp', HOST, 443)) === `vm1 sees ${OUT}`);
    expect(await e.apply(desired())).toEqual([]);
  });

  test('B6: its flows go on over the daemon’s death, and over the next one, which finds it again', async () => {
    const [before, out, inwards] = [pidOf('shared'), await flow(vm1, OUT, 8080), await flow(w.outside, HOST, 80)];
    await e.kill();
    const died = [await out.echoed(), await inwards.echoed()];
    await until(
      'both go on without a daemon',
      async () => (await out.echoed()).bytes > died[0]!.bytes + 20 && (await inwards.echoed()).bytes > died[1]!.bytes + 20,
    );
    e = new RemoteEngine(w, 'user', 'root');
    expect(await e.apply(desired())).toEqual([]);
    const found = [await out.echoed(), await inwards.echoed()];
    await until(
      'both go on with the next',
      async () => (await out.echoed()).bytes > found[0]!.bytes + 20 && (await inwards.echoed()).bytes > found[1]!.bytes + 20,
    );
    expect([out.end(), inwards.end(), pidOf('shared')]).toEqual([null, null, before]);
    out.stop();
    inwards.stop();
  });

  test('B90: killed, it is back with its cables, its leases and its rules; the other network is not touched', async () => {
    const other = pidOf('host');
    process.kill(pidOf('shared'), 'SIGKILL');
    const since = Date.now();
    await until('outside is reached again', async () => (await greet(vm1, 'tcp', OUT, 8080)) === `outside sees ${HOST}`);
    console.log(`    healed in ${Date.now() - since} ms (with the program's compilation)`);
    await until('the rule works again', async () => (await greet(w.outside, 'tcp', HOST, 80)) === `vm1 sees ${OUT}`);
    expect(pidOf('host')).toBe(other);
    expect((await e.observe()).nics.find((n) => n.id === vmId(1))).toMatchObject({ healthy: true, source: 'lease' });
  });
});
