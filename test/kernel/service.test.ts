/** What the kernel engine's service may do (docs/decisions/0012, 0016): it parses guest traffic, so it is not root. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { landlockAbi } from '../../src/host/ffi/landlock.ts';
import { dhcp, greeting, guest, nic, rule, serve, state } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns');

describe.skipIf(why !== null)(`the kernel engine’s service${why ? ` (skipped: ${why})` : ''}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm: Namespace;
  let pid = 0;

  beforeAll(async () => {
    w = new World('sv-');
    vm = guest(w, 1);
    e = new RemoteEngine(w, 'kernel', 'root');
    expect(await e.apply(state(nic(1, 'shared', { rules: [rule(80, 8080)] })))).toEqual([]);
    expect(await dhcp(w, vm)).not.toBeNull();
    pid = Number(w.host.run(`for p in $(ip netns pids ${w.host.name}); do tr '\\0' ' ' </proc/$p/cmdline | grep -q 'service-main[.]' && echo $p; done; true`));
  });

  afterAll(async () => {
    await e.reset();
    w.close();
  });

  test('runs as its own user, may listen on low ports and change the host’s networking, in every thread, and runs no program', () => {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    expect(status).toMatch(/^Uid:\t1639999003\t1639999003\t1639999003\t1639999003$/m);
    expect(status).toMatch(/^Gid:\t1639999000\t1639999000\t1639999000\t1639999000$/m);
    expect(status).toMatch(/^Groups:\s*$/m);
    for (const set of ['Eff', 'Prm']) expect(status).toMatch(new RegExp(`^Cap${set}:\\t0000000000001400$`, 'm'));
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      const of = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
      expect(of).toMatch(/^NoNewPrivs:\t1$/m);
      expect(of).toMatch(/^Seccomp:\t2$/m);
      expect(of).toMatch(/^CapEff:\t000000000000(14|00)00$/m);
      expect(of).toMatch(/^CapInh:\t0+$/m);
    }
    const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
    expect(limits).toMatch(/^Max processes +0 +0 /m);
    expect(limits).toMatch(/^Max core file size +0 +0 /m);
    expect(readFileSync(`/proc/${pid}/environ`, 'utf8')).not.toMatch(/SECRET_OF_TEST|NODE_OPTIONS/);
  });

  test.skipIf(landlockAbi() < 1)('is fenced, in its own directories', () => {
    const log = readFileSync(join(w.dir, 'state/service/log'), 'utf8');
    expect(log).toContain('service started');
    expect(log).not.toContain('did not let us give up');
    for (const directory of ['run/service', 'state/service']) expect(statSync(join(w.dir, directory)).uid).toBe(1_639_999_003);
  });

  test('serves: a rule with a port below 1024, also by the listener, and its leases outlive it', async () => {
    await serve(vm, 8080, 'vm');
    await until('the guest’s address is known', async () => (await e.observe()).nics[0]?.ip);
    expect(await greeting(w.outside, 'tcp', '10.9.0.2', 80)).toMatch(/^vm sees /);
    expect(await greeting(w.host, 'tcp', '127.0.0.1', 80)).toMatch(/^vm sees /);
    const ip = (await e.observe()).nics[0]?.ip;
    process.kill(pid, 'SIGKILL');
    await until('another one listens', async () => (await greeting(w.host, 'tcp', '127.0.0.1', 80)).startsWith('vm sees '));
    expect((await e.observe()).nics[0]?.ip).toBe(ip);
  });
});
