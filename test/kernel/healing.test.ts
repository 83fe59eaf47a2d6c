/**
 * B90 under traffic: the faults that break the network of running guests, and how long the guests are without it.
 *
 * Theory of operation: before each fault, new flows start every 50 ms, and one flow stays open. The outage is the
 * longest time without a success from then on; it must be below two seconds. A machine that is busy with other work may
 * miss that: the best of five counts.
 */

import type { ChildProcess } from 'node:child_process';
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { dhcp, guest, nic, rule, serve, state } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns');
const TRAFFIC = fileURLToPath(new URL('traffic.mjs', import.meta.url));
const OUTSIDE = '10.9.0.1';
const HOST = '10.9.0.2';
const GW = '192.168.64.1';
/** What B90 allows on a machine of normal speed, where Node starts in 60 ms at most. A slower one gets as much more. */
const ALLOWED_MS = 2000 * Math.max(1, startOfNode() / 60);

/** How long Node takes to start (ms): the best of three. */
function startOfNode(): number {
  const times = [1, 2, 3].map(() => {
    const began = performance.now();
    execFileSync(process.execPath, ['-e', '0']);
    return performance.now() - began;
  });
  return Math.min(...times);
}
const WATCHED_MS = 2500;

/** Traffic of one type, with the times of its successes. */
class Traffic {
  readonly name: string;
  readonly #times: number[] = [];
  readonly #child: ChildProcess;
  #later = false;

  constructor(ns: Namespace, name: string, ...args: (string | number)[]) {
    this.name = name;
    this.#child = ns.spawn([process.execPath, TRAFFIC, ...args.map(String)]);
    this.#child.stdout?.on('data', (d: Buffer) => this.#times.push(...d.toString().trim().split('\n').map(Number)));
  }

  /** Marks traffic that cannot flow before the damage. */
  later(): this {
    this.#later = true;
    return this;
  }

  /** Waits until it flows without a pause. */
  async flows(): Promise<void> {
    if (this.#later) return;
    await until(`${this.name} flows`, () => {
      const last = this.#times.slice(-6);
      return last.length === 6 && Date.now() - (last[0] as number) < 1000;
    });
  }

  /** The longest time without a success since `began`, in ms. */
  async outage(began: number): Promise<number> {
    await until(`${this.name} flows again`, () => (this.#times.at(-1) ?? 0) > began + WATCHED_MS);
    const times = [began, ...this.#times.filter((t) => t > began)];
    return Math.max(...times.slice(1).map((t, i) => t - (times[i] as number)));
  }

  stop(): void {
    this.#child.kill('SIGKILL');
  }
}

describe.skipIf(why !== null)(`B90: recovery under traffic${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  let ip2 = '';

  beforeAll(async () => {
    w = new World('kh-');
    vm1 = guest(w, 1);
    vm2 = guest(w, 2);
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(state(nic(1, 'shared', { rules: [rule(10001, 8080)] }), nic(2)))).toEqual([]);
    expect(await dhcp(w, vm1)).not.toBeNull();
    ip2 = (await dhcp(w, vm2))?.ip as string;
    await serve(w.outside, 8080, 'outside');
    await serve(vm1, 8080, 'vm1');
    await serve(vm2, 8080, 'vm2');
    for (const [address, answer] of [
      [OUTSIDE, '203.0.113.1'],
      ['198.51.100.1', '203.0.113.2'],
    ]) {
      const options = ['--no-resolv', '--no-hosts', '--user=root', `--listen-address=${address}`, '--bind-interfaces', `--address=/outside.test/${answer}`];
      w.outside.spawn(['dnsmasq', '-k', '--conf-file=/dev/null', '--pid-file=', ...options]);
    }
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    const left = w.host.run('ip -o link; nft list ruleset').split('\n');
    expect(
      left.filter((l) => l.includes('anka')),
      'nothing is left after reset',
    ).toEqual([]);
    w.close();
  });

  /** Causes the damage under all that traffic; returns the outage of each type. */
  async function measureOutage(damage: () => void, kinds: () => Traffic[]): Promise<void> {
    const seen: string[] = [];
    for (let attempt = 0; attempt < 5; attempt++) {
      const traffic = kinds();
      try {
        for (const t of traffic) await t.flows();
        const began = Date.now();
        damage();
        const outages = await Promise.all(traffic.map(async (t) => ({ name: t.name, ms: await t.outage(began) })));
        seen.push(outages.map((o) => `${o.name} ${o.ms} ms`).join(', '));
        if (outages.every((o) => o.ms < ALLOWED_MS)) {
          console.log(`    outage: ${seen.at(-1)}`);
          await until('no problem is left', async () => (await e.observe()).problems.length === 0);
          return;
        }
      } finally {
        for (const t of traffic) t.stop();
      }
    }
    expect.fail(`the outage was longer than ${Math.round(ALLOWED_MS)} ms each time: ${seen.join('; ')}`);
  }

  const everything = (): Traffic[] => [
    new Traffic(vm1, 'guest → outside, TCP', 'tcp', OUTSIDE, 8080),
    new Traffic(vm1, 'guest → outside, UDP', 'udp', OUTSIDE, 8080),
    new Traffic(vm1, 'guest → guest', 'tcp', ip2, 8080),
    new Traffic(w.outside, 'outside → forwarded port', 'tcp', HOST, 10001),
    new Traffic(vm2, 'names', 'dns', GW, 'outside.test', '203.0.113.1'),
    new Traffic(vm2, 'DHCP', 'dhcp'),
  ];

  const withOpenConnection = (): Traffic[] => [...everything(), new Traffic(w.outside, 'one open connection', 'flow', HOST, 10001)];

  test.each([
    ['nft flush ruleset', 'nft flush ruleset'],
    ['the bridge deleted', 'ip link del anka-shared'],
    ['a tap taken from its master', 'ip link set anka00000001 nomaster'],
    ['the gateway’s address removed', `ip addr del ${GW}/24 dev anka-shared`],
  ])('B90: %s', (what, command) =>
    // without our tables the kernel itself resets forwarded connections, so only new flows count there
    measureOutage(() => w.host.run(command), what === 'nft flush ruleset' ? everything : withOpenConnection),
  );

  describe('where containers come and go', () => {
    /** 25 veth pairs a second are created, addressed, set up and deleted. */
    const PAIR = 'ip link add box1 type veth peer name box2; ip addr add 10.77.0.1/32 dev box1; ip link set box1 up; ip link set box2 up; ip link del box1';
    let churn: ChildProcess;
    let pairs = 0;

    beforeAll(async () => {
      await until('the engine is at rest', async () => {
        const before = await e.reports();
        await sleep(1500);
        return (await e.reports()) === before;
      });
      churn = w.host.spawn(['sh', '-c', `while :; do ${PAIR}; echo; sleep 0.02; done`]);
      churn.stdout?.on('data', (d: Buffer) => {
        pairs += d.length;
      });
    });
    afterAll(() => churn?.kill('SIGKILL'));

    test('their interfaces cause no checks', async () => {
      const before = await e.reports();
      const began = performance.now();
      const goal = pairs + 250;
      await until('250 pairs have come and gone', () => pairs >= goal);
      const periodic = 1 + (performance.now() - began) / 9000;
      expect((await e.reports()) - before).toBeLessThanOrEqual(periodic);
    });

    test('B90: the bridge deleted', () => measureOutage(() => w.host.run('ip link del anka-shared'), withOpenConnection));
  });

  test('B90: the process for DHCP, DNS and listeners killed', () =>
    measureOutage(() => {
      const pids = w.host.run(`for p in $(ip netns pids ${w.host.name}); do tr '\\0' ' ' </proc/$p/cmdline | grep -q 'service-main[.]' && echo $p; done; true`);
      expect(pids.trim()).not.toBe('');
      for (const pid of pids.trim().split('\n')) process.kill(Number(pid), 'SIGKILL');
    }, withOpenConnection));

  test('B25, B90: another resolv.conf: the new resolver answers', async () => {
    let now = OUTSIDE;
    await measureOutage(
      () => {
        now = now === OUTSIDE ? '198.51.100.1' : OUTSIDE;
        w.setResolver(now);
      },
      () => {
        const after = now === OUTSIDE ? '203.0.113.2' : '203.0.113.1';
        return [new Traffic(vm1, 'guest → outside, TCP', 'tcp', OUTSIDE, 8080), new Traffic(vm2, 'its names', 'dns', GW, 'outside.test', after).later()];
      },
    );
  });
});
