/**
 * kill -9 at random moments of the daemon, of QEMU or of the service process, while VMs are created, started, changed
 * and deleted. The next command finds everything consistent. ANKA_CRASH_SEED and ANKA_CRASH_ROUNDS replay or lengthen a
 * run; a failure reports the seed, the round and the command.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Client } from '../../src/api/client.ts';
import { openDb } from '../../src/store/db.ts';
import { Qmp } from '../../src/vm/qmp.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { pick as pickBy, random } from '../world/random.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');
const SEED = Number(process.env['ANKA_CRASH_SEED'] ?? 20_261_124);
const ROUNDS = Number(process.env['ANKA_CRASH_ROUNDS'] ?? 15);
const MOST_VMS = 4;
const MOST_RUNNING = 2;

interface Vm {
  uuid: string;
  name: string;
  status: string;
  mac?: string;
  network?: { type: string; healthy: boolean };
  port_forwarding: { name: string; host_port: number; guest_port: number }[];
}

/** One command, and which VM and property it may change. */
interface Step {
  line: string;
  target: string;
  changes: 'exists' | 'status' | 'type' | 'card' | 'rules';
}

describe.skipIf(why !== null)(`kill -9${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  const rnd = random(SEED);
  const pick = <T>(items: readonly T[]): T => pickBy(rnd, items);

  /** Processes in the host's namespace: pid and arguments. */
  const processes = (): { pid: number; args: string[] }[] =>
    execFileSync('ip', ['netns', 'pids', w.host.name])
      .toString()
      .trim()
      .split('\n')
      .flatMap((p) => {
        try {
          const args = readFileSync(`/proc/${p}/cmdline`, 'utf8').split('\0');
          return args[0] === '' ? [] : [{ pid: Number(p), args }];
        } catch {
          return []; // exited meanwhile
        }
      });
  const qemus = () => processes().filter((p) => p.args[0]?.startsWith('qemu-system'));
  const services = () => processes().filter((p) => p.args.some((a) => a.endsWith('service-main.js')));
  const all = async (): Promise<Vm[]> => {
    // starts a daemon if none runs
    const uuids = (await anka.body<{ uuid: string }[]>('list')).map((v) => v.uuid);
    const api = new Client(join(anka.home, 'run/ankad.sock'));
    return Promise.all(uuids.map((u) => api.get<Vm>(`/v1/vms/${u}`)));
  };

  beforeAll(async () => {
    w = new World('tk-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 96M -c 1 -d 1G keeper');
    await anka.ok('modify keeper add port-forwarding -g 22 -p 12022 ssh');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    expect(readdirSync(join(anka.home, 'vms')), 'no directory is left').toEqual([]);
    expect(readdirSync(join(anka.home, 'run/vm')), 'no socket is left').toEqual([]);
    expect(
      w.host
        .run('ip -o link; nft list ruleset')
        .split('\n')
        .filter((l) => l.includes('anka')),
      'nothing is left in the kernel',
    ).toEqual([]);
    await until('no process is left', () => processes().filter((p) => p.args.some((a) => /dist\/|qemu-system|monitor/.test(a))).length === 0);
    const db = openDb(join(anka.home, 'anka.db'));
    expect(db.prepare('PRAGMA integrity_check').get()).toEqual({ integrity_check: 'ok' });
    db.close();
    w.close();
  });

  function choose(vms: readonly Vm[]): Step {
    const others = vms.filter((v) => v.name !== 'keeper');
    const vm = pick(vms);
    const fresh = ['a', 'b', 'c', 'd', 'e'].find((n) => !vms.some((v) => v.name === n)) as string;
    const running = vms.filter((v) => v.status === 'running');
    const steps: Step[] = [
      { line: `modify ${vm.name} set network-card -t ${pick(['host', 'disconnected', 'shared'])}`, target: vm.name, changes: 'type' },
      { line: `modify ${vm.name} add port-forwarding -g ${1000 + Math.floor(rnd() * 50)} r${Math.floor(rnd() * 6)}`, target: vm.name, changes: 'rules' },
    ];
    const rule = vm.port_forwarding[0];
    if (rule && vm.name !== 'keeper') steps.push({ line: `modify ${vm.name} delete port-forwarding ${rule.name}`, target: vm.name, changes: 'rules' });
    if (vms.length < MOST_VMS) {
      steps.push({ line: `create -m 96M -c 1 -d 1G ${fresh}`, target: fresh, changes: 'exists' });
      steps.push({ line: `clone ${vm.name} ${fresh}`, target: fresh, changes: 'exists' });
    }
    const still = vms.filter((v) => v.status !== 'running');
    if (running.length < MOST_RUNNING && still.length > 0) {
      const s = pick(still).name;
      for (let i = 0; i < 4; i++) steps.push({ line: `start ${s}`, target: s, changes: 'status' });
    }
    const awake = others.filter((v) => v.status !== 'suspended');
    if (awake.length > 0) {
      const { name, network } = pick(awake);
      steps.push({ line: `modify ${name} ${network ? 'delete' : 'add'} network-card`, target: name, changes: 'card' });
    }
    if (running.length > 0) {
      const r = pick(running).name;
      steps.push({ line: `modify ${r} set network-card -t ${pick(['host', 'shared'])} ${pick(['--local', '--no-local'])}`, target: r, changes: 'type' });
      steps.push({ line: `suspend ${r}`, target: r, changes: 'status' }, { line: `suspend ${r}`, target: r, changes: 'status' });
      steps.push({ line: `stop -f ${r}`, target: r, changes: 'status' });
    }
    if (others.length > 0) {
      const o = pick(others).name;
      steps.push({ line: `delete --yes ${o}`, target: o, changes: 'exists' });
    }
    return pick(steps);
  }

  /** Kills one victim; returns its name. */
  async function kill(): Promise<string> {
    const victims = ['daemon', 'daemon', 'daemon', 'qemu', 'service'];
    const victim = pick(victims);
    if (victim === 'daemon') await anka.killDaemon();
    else
      for (const p of victim === 'qemu' ? qemus().slice(0, 1) : services()) {
        try {
          process.kill(p.pid, 'SIGKILL');
        } catch {
          // it exited already
        }
      }
    return victim;
  }

  function checkFiles(vms: readonly Vm[]): void {
    expect(readdirSync(join(anka.home, 'vms')).sort(), 'one directory for each VM').toEqual(vms.map((v) => v.uuid).sort());
    for (const v of vms) {
      const dir = join(anka.home, 'vms', v.uuid);
      const files = readdirSync(dir);
      expect(
        files.filter((f) => f.includes('.part')),
        `half-written files of ${v.name}`,
      ).toEqual([]);
      expect(files).toContain('disk.qcow2');
      if (v.status !== 'running') execFileSync('qemu-img', ['check', '-q', join(dir, 'disk.qcow2')]);
      expect(files.includes('memory'), `${v.name} is ${v.status}`).toBe(v.status === 'suspended');
    }
  }

  test(`B6: ${ROUNDS} times, seed ${SEED}`, async () => {
    let before = await all();
    const done: Record<string, number> = {};
    for (let round = 1; round <= ROUNDS; round++) {
      const step = choose(before);
      const command = anka.run(step.line.split(' '));
      await sleep(rnd() ** 2 * (/^(start|suspend|modify .* -t)/.test(step.line) ? 1500 : 600));
      const victim = await kill();
      const result = await command;
      const where = `seed ${SEED}, round ${round}: ${victim} was killed during 'anka ${step.line}' (status ${result.status}: ${result.stderr.trim().split('\n').at(-1)})`;
      const what = `${victim} during ${step.line.split(' ')[0]}`;
      done[what] = (done[what] ?? 0) + 1;
      // the daemon notices QEMU's death a moment later
      const after = await until(`${where}: status and processes agree`, async () => {
        const now = await all();
        const running = now.filter((v) => v.status === 'running').map((v) => v.uuid);
        const alive = qemus().map((p) => p.args[p.args.indexOf('-uuid') + 1] as string);
        return running.sort().join() === alive.sort().join() ? now : null;
      });
      try {
        for (const old of before) {
          const now = after.find((v) => v.name === old.name);
          if (!now) {
            expect(`${step.target} ${step.changes}`, `${old.name} was deleted`).toBe(`${old.name} exists`);
            continue;
          }
          expect(now.uuid).toBe(old.uuid);
          const changed = step.target === old.name ? step.changes : '';
          if (changed !== 'type' && changed !== 'card') expect(now.network?.type).toBe(old.network?.type);
          const ports = (v: Vm) => v.port_forwarding.map((r) => `${r.name} ${r.guest_port} ${r.name === 'ssh' ? r.host_port : ''}`).sort();
          if (changed !== 'rules' && changed !== 'card') expect(ports(now)).toEqual(ports(old));
          if (now.status !== old.status && now.status !== 'failed')
            expect(`${step.target} ${step.changes}`, `${old.name} is ${now.status}`).toBe(`${old.name} status`);
        }
        for (const v of after) if (!before.some((o) => o.name === v.name)) expect(`${step.target} ${step.changes}`).toBe(`${v.name} exists`);
        const macs = after.flatMap((v) => (v.mac ? [v.mac] : []));
        expect(new Set(macs).size, 'outside MACs are unique').toBe(macs.length);
        checkFiles(after);
        const allowed = new Set(after.filter((v) => v.status === 'running').flatMap((v) => v.port_forwarding.map((r) => r.host_port)));
        await until('every card is in the network of its type', async () =>
          (await all()).every((v) => v.status !== 'running' || v.network === undefined || v.network.healthy),
        );
        await until('no port leads to a deleted VM', () => {
          const map = w.host.attempt('nft list map ip anka forward_any') ?? '';
          return [...map.matchAll(/(?:tcp|udp) \. (\d+) :/g)].every((m) => allowed.has(Number(m[1])));
        });
      } catch (cause) {
        throw new Error(`${where}: ${(cause as Error).message}`, { cause });
      }
      // failed VMs stay: later steps start them like any others, so they cannot pile up
      before = after;
    }
    console.log(
      Object.entries(done)
        .map(([k, n]) => `${k}: ${n}`)
        .join(', '),
    );
  });

  test('B6, B90: afterwards a VM starts, has an address, and is reachable through its rule', async () => {
    for (const v of await all()) if (v.name !== 'keeper') await anka.ok(`delete --yes ${v.name}`);
    if ((await anka.body<Vm>('show keeper')).status === 'running') await anka.ok('stop -f keeper');
    await anka.ok('modify keeper set network-card -t shared');
    await anka.ok('start keeper');
    await anka.address('keeper');
    await anka.ok('run keeper true');
    const banner = await until('ssh answers through the rule', () => w.outside.ask("timeout 20 bash -c 'exec 3<>/dev/tcp/10.9.0.2/12022 && head -c 4 <&3'"));
    expect(banner).toBe('SSH-');
    expect(existsSync(join(anka.home, 'anka.db'))).toBe(true);
  });

  describe('B4, B6: an interrupted resume', () => {
    const memory = () => join(anka.home, 'vms', uuid, 'memory');
    const status = async () => (await anka.ok('show keeper status')).trim();
    let uuid = '';

    /** The database as a daemon leaves it that was killed before it recorded that the guest runs. */
    const noteSuspended = () => {
      const db = openDb(join(anka.home, 'anka.db'));
      db.prepare("UPDATE vms SET status = 'suspended' WHERE uuid = ?").run(uuid);
      db.close();
    };

    beforeAll(async () => {
      uuid = (await anka.ok('show keeper uuid')).trim();
      await anka.ok('run keeper true');
    });

    test('the guest runs already: its saved memory is outdated, and is removed', async () => {
      await anka.killDaemon();
      noteSuspended();
      writeFileSync(memory(), 'older than the disk');
      expect(await status()).toBe('running');
      expect(existsSync(memory())).toBe(false);
    });

    test('the memory is loaded and its file removed, the guest is paused: it continues', async () => {
      const boot = await anka.ok('run keeper cat /proc/sys/kernel/random/boot_id');
      await anka.killDaemon();
      noteSuspended();
      const qmp = await Qmp.connect(join(anka.home, 'run/vm', uuid.slice(0, 8), 'qmp.sock'));
      await qmp.command('stop');
      qmp.close();
      expect(await status()).toBe('running');
      expect(await anka.ok('run keeper cat /proc/sys/kernel/random/boot_id')).toBe(boot);
    });

    test('the memory is partly loaded: it is kept and used', async () => {
      const boot = await anka.ok('run keeper cat /proc/sys/kernel/random/boot_id');
      await anka.killDaemon();
      noteSuspended();
      writeFileSync(memory(), 'what is being read');
      const qmp = await Qmp.connect(join(anka.home, 'run/vm', uuid.slice(0, 8), 'qmp.sock'));
      await qmp.command('stop');
      qmp.close();
      expect(await status()).toBe('suspended');
      expect(qemus()).toEqual([]);
      expect(readFileSync(memory(), 'utf8')).toBe('what is being read');
      expect((await anka.run(['start', 'keeper'])).status, 'this file is not a memory image').not.toBe(0);
      expect(await status()).toBe('suspended');
      await anka.ok('stop -f keeper');
      await anka.ok('start keeper');
      expect(await anka.ok('run keeper cat /proc/sys/kernel/random/boot_id')).not.toBe(boot);
    });

    test('QEMU died with the loaded memory: this is reported, and the VM can be started', async () => {
      await anka.killDaemon();
      noteSuspended();
      for (const p of qemus()) process.kill(p.pid, 'SIGKILL');
      await until('QEMU exited', () => qemus().length === 0);
      expect(await status()).toBe('failed');
      expect((await anka.body<{ message: string }>('show keeper')).message).toBe('its saved memory was lost');
      await anka.ok('start keeper');
      expect(await status()).toBe('running');
    });
  });
});
