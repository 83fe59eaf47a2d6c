/**
 * An engine with nothing to do starts no program: not for its periodic checks, and not where other firewalls are on the
 * host.
 *
 * Theory of operation: the kernel adds the page faults of a child to those of its parent when the parent reaps it. No
 * program runs without one, so the number changes with every program that has exited.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { guest, nic, rule, state } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun');
const hasLegacy = why === null && spawnSync('unshare', ['-n', 'iptables-legacy', '-S']).status === 0;
/** Longer than the time between two periodic checks. */
const IDLE_MS = 11_000;

/** Changes whenever a child of the process starts or exits. */
function childrenOf(pid: number): string {
  const running = readdirSync(`/proc/${pid}/task`).map((task) => readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim());
  // the process's name, in parentheses, may contain anything
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/.*\) /s, '').split(' ');
  return `${running.join(' ').trim()}; faults of those that exited: ${fields[8]}`;
}

describe.skipIf(why !== null)(`idle kernel engine${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;

  beforeAll(async () => {
    w = new World('ki-');
    guest(w, 1);
    guest(w, 2);
    guest(w, 3);
    w.host.run('iptables-nft -P FORWARD DROP; iptables-nft -A INPUT -j ACCEPT; iptables-legacy -P FORWARD DROP 2>/dev/null || true');
    e = new RemoteEngine(w, 'kernel');
    const translated = nic(2, 'bridge', { bridge: 'en0', insideMac: 0x525400000002, vlan: 7 });
    expect(await e.apply(state(nic(1, 'shared', { rules: [rule(10001, 8080)] }), translated, nic(3, 'host')))).toEqual([]);
  });
  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('no program is started', async () => {
    const pid = e.child.pid as number;
    let seen = '';
    let since = 0;
    await until(
      `no program in ${IDLE_MS} ms`,
      async () => {
        const now = childrenOf(pid);
        if (now !== seen) [seen, since] = [now, performance.now()];
        await e.observe();
        await e.stats();
        await sleep(200);
        return performance.now() - since > IDLE_MS;
      },
      120_000,
    );
  });

  test.skipIf(!hasLegacy)('B90: a firewall that iptables-legacy changes is found by the next check (skipped where the kernel lacks it)', async () => {
    const accepts = (): number => w.host.run('iptables-legacy -S FORWARD').match(/anka:v1/g)?.length ?? 0;
    const before = accepts();
    expect(before).toBeGreaterThan(0);
    w.host.run('iptables-legacy -F FORWARD');
    await until('the accepts are back', () => accepts() === before);
  });
});
