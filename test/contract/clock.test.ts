/**
 * B90: the host's date jumps by hours, as when a laptop wakes or NTP sets it: leases and connections continue. Both
 * engines. Only the tested processes see another date (date.c): the engine, and its helper process, which the test
 * starts where the engine looks for it.
 */
import { execFileSync } from 'node:child_process';
import { chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { asUser, PROCESS_UIDS } from '../../src/engine/process/users.ts';
import { AS_ORDINARY_USER, ORDINARY, RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';
import { dhcp, type Flow, flow, guest, macText, nic, serve, state, vmId } from './guest-tools.ts';

const INTERNET = '198.51.100.1';
const HOUR = 3600;
const ENGINES = [
  {
    kind: 'kernel' as const,
    why: missing('root', 'netns', 'cc'),
    helper: 'kernel/service/service-main.js',
    dir: 'service',
    as: [] as string[],
    words: asUser(PROCESS_UIDS.service),
  },
  {
    kind: 'user' as const,
    why: missing('root', 'netns', 'tun', 'cc'),
    helper: 'user/process/network-main.js',
    dir: 'net-shared',
    as: AS_ORDINARY_USER,
    words: [] as string[],
  },
];
const SUITES = ENGINES.map((t) => [`${t.kind} engine${t.why === null ? '' : ` (${t.why})`}`, t] as const);

describe.each(SUITES)('the host’s date jumps: %s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  let vm: Namespace;
  let ip = '';
  let f: Flow;
  let helper: { pid: number };
  const desired = state(nic(1));

  /** Moves the date that the engine's processes see. */
  const setDate = (seconds: number): void => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(seconds));
    writeFileSync(join(w.dir, 'date'), bytes, { flag: 'r+' });
  };
  const address = async (): Promise<number | null> => (await e.observe()).nics[0]?.ip ?? null;

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('ck-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    const library = join(w.dir, 'date.so');
    execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-o', library, fileURLToPath(new URL('../world/date.c', import.meta.url))]);
    writeFileSync(join(w.dir, 'date'), Buffer.alloc(8));
    const moved = { LD_PRELOAD: library, ANKA_TEST_DATE: join(w.dir, 'date') };
    if (t.kind === 'kernel') vm = guest(w, 1);
    e = new RemoteEngine(w, t.kind, 'usual', '', moved);
    await e.ready;
    const [run, stored] = [join(w.dir, 'run', t.dir), join(w.dir, 'state', t.dir)];
    for (const dir of [run, stored]) {
      mkdirSync(dir, { recursive: true });
      if (t.kind === 'user') chownSync(dir, ORDINARY, ORDINARY);
    }
    const program = fileURLToPath(new URL(`../../dist/engine/${t.helper}`, import.meta.url));
    const files = ['--control', join(run, 'control.sock'), '--leases', join(stored, 'leases.json'), '--log', join(stored, 'log')];
    const child = w.host.spawn([...t.as, process.execPath, program, ...files, ...t.words], moved);
    await until('the helper process listens', () => w.host.attempt(`test -S ${join(run, 'control.sock')}`) !== null);
    helper = { pid: child.pid as number };
    expect(await e.apply(desired)).toEqual([]);
    if (t.kind === 'user') vm = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
    await serve(w.outside, 8080, 'outside');
    ip = (await dhcp(w, vm))?.ip ?? '';
    await until('the lease is known', address);
    f = await flow(vm, INTERNET, 8080);
  });

  afterAll(async () => {
    if (!w) return;
    f?.stop();
    await e.reset();
    w.close();
  });

  test.each([
    ['two hours ahead', 2 * HOUR],
    ['three hours back', -HOUR],
  ])('B90, B23: %s: the lease and a connection continue', async (_what, seconds) => {
    const before = await address();
    expect(before).not.toBeNull();
    setDate(seconds);
    const { bytes } = await f.echoed();
    // the engine reads all leases again, and looks for expired ones once a second
    const applied = performance.now();
    expect(await e.apply(desired)).toEqual([]);
    await until('it goes on for two seconds', async () => f.end() !== null || (performance.now() - applied > 2000 && (await f.echoed()).bytes > bytes + 10));
    expect(f.end()).toBeNull();
    expect(await address()).toBe(before);
    await vm.reaches(INTERNET);
    expect((await e.stats())[0]?.drops['ip_spoof'] ?? 0).toBe(0);
  });

  test('B23: a lease outlives its helper process, whose successor sees another date', async () => {
    const before = await address();
    process.kill(helper.pid, 'SIGKILL');
    await until('the lease is known again', async () => (await e.observe().catch(() => null))?.nics[0]?.ip === before);
    await vm.reaches(INTERNET);
    expect((await dhcp(w, vm))?.ip).toBe(ip);
  });
});
