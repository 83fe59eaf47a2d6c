/**
 * The network process of root's user engine: its user, its rights, and that it outlives the daemon with its flows
 * (docs/decisions/0012).
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lchownSync,
  linkSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { landlockAbi } from '../../src/host/ffi/landlock.ts';
import { asOther, refused, tries } from '../world/other-user.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { memoryOf, missing, type Namespace, until, World } from '../world/world.ts';
import { dhcp, flow, greet, greeting, macText, nic, rule, serve, state, vmId } from './guest-tools.ts';

const why = missing('root', 'netns', 'tun', 'cc');
const HOST = '10.9.0.2';
const OUT = '10.9.0.1';
const HOST_GATEWAY = '192.168.128.1';
/** Bytes of one transfer. */
const MOVED = 32 << 20;
/**
 * Arguments: an echo server's address, and the number of bytes to send (0: endless). Prints when the first byte
 * returns, then how many did; the server greets with a line.
 */
const TRANSFER = `
  const [host, n] = process.argv.slice(1); let sent = 0, got = -1;
  const s = require('net').connect(8080, host), chunk = Buffer.alloc(65536);
  const more = () => { while (n === '0' || sent < n) { sent += chunk.length; if (!s.write(chunk)) return; } s.end(); };
  s.on('connect', more).on('drain', more).on('error', (e) => { console.log(e.code); process.exit(1); });
  s.on('data', (d) => { if (got < 0) { const at = d.indexOf(10); if (at < 0) return; got = d.length - at - 1; console.log('begun'); } else got += d.length; });
  s.on('end', () => console.log('echoed ' + got));`;
/** As daemon/desired.ts gives them. */
const VM_UID = 1_640_000_001;

describe.skipIf(why !== null)(`the network process of root's user engine${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;
  const desired = () =>
    state(nic(1, 'shared', { ownerUid: VM_UID, rules: [rule(80, 8080), rule(5353, 5353, 'udp')] }), nic(2, 'host', { ownerUid: VM_UID + 1 }));
  const processes = (): { pid: number; line: string }[] =>
    w.host
      .run(`ip netns pids ${w.host.name} | while read p; do echo "$p $(tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; true`)
      .split('\n')
      .filter((l) => l.includes('network-main.'))
      .map((l) => ({ pid: Number(l.split(' ')[0]), line: l }));
  const pidOf = (name: string): number => {
    const found = processes().find((p) => p.line.includes(`net-${name}/`));
    if (!found) throw new Error(`no process of ${name}`);
    return found.pid;
  };

  /** A guest behind a socket of its VM's user, as QEMU creates it. */
  async function plug(n: number): Promise<Namespace> {
    const { path } = await e.openNic(vmId(n));
    const guest = await shimmedGuest(w, `g${n}`, macText(n), path);
    lchownSync(path, VM_UID + n - 1, VM_UID + n - 1);
    await e.listening(vmId(n));
    return guest;
  }
  const cardSocket = (n: number): string => join(w.dir, 'run/nic', vmId(n).slice(0, 8), 'qemu.sock');

  beforeAll(async () => {
    w = new World('up-');
    e = new RemoteEngine(w, 'user', 'root');
    expect(await e.apply(desired())).toEqual([]);
    vm1 = await plug(1);
    vm2 = await plug(2);
    await serve(w.outside, 8080, 'outside');
    await serve(vm1, 8080, 'vm1');
    await serve(w.host, 8080, 'host');
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

  test.each(['shared', 'host'])('the %s network’s process has its own user, who may listen on low ports, and nothing else', (name) => {
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

  test.each(['shared', 'host'])('every thread of the %s network’s process is confined: no core dump, no child process, no inherited secret', (name) => {
    const pid = pidOf(name);
    const of = (file: string): string => readFileSync(`/proc/${pid}/${file}`, 'utf8');
    const threads = readdirSync(`/proc/${pid}/task`).map((t) => of(`task/${t}/status`));
    expect(threads.length).toBeGreaterThan(4);
    for (const status of threads) {
      expect(status).toMatch(/^NoNewPrivs:\t1$/m);
      expect(status).toMatch(/^Seccomp:\t2$/m);
      expect(status).toMatch(/^CapEff:\t0000000000000[04]00$/m);
      expect(status).toMatch(/^Umask:\t0077$/m);
    }
    const limits = of('limits');
    expect(limits).toMatch(/^Max core file size +0 +0 /m);
    expect(limits).toMatch(/^Max processes +0 +0 /m);
    expect(limits).toMatch(/^Max file size +67108864 +67108864 /m);
    expect(limits, 'as many open files as this user may have').toMatch(/^Max open files +(\d+) +\1 /m);
    const environment = of('environ').split('\0');
    expect(environment.some((l) => l.startsWith('PATH='))).toBe(true);
    expect(environment.filter((l) => /^(SECRET_OF_TEST|NODE_OPTIONS)=/.test(l))).toEqual([]);
  });

  test.skipIf(landlockAbi() < 1).each(['shared', 'host'])('the %s network’s process is fenced and inherits no descriptor', async (name) => {
    const log = readFileSync(join(w.dir, `state/net-${name}/log`), 'utf8');
    expect(log).toContain('network process started');
    expect(log).not.toContain('did not let us give up');
    expect((await e.doctor()).find((f) => f.id === 'rights.files')?.level).toBe('ok');
  });

  test.each(['shared', 'host'])('the %s network’s process holds its log, its lock and its sockets, and no descriptor of the daemon', (name) => {
    const open = (pid: number): string[] => readdirSync(`/proc/${pid}/fd`).map((fd) => `${fd} ${readlinkSync(`/proc/${pid}/fd/${fd}`)}`);
    const mine = open(pidOf(name));
    expect(mine.filter((l) => /^[012] /.test(l))).toEqual(['0 /dev/null', '1 /dev/null', '2 /dev/null']);
    const files = mine.map((l) => l.slice(l.indexOf(' ') + 1)).filter((path) => path.startsWith('/') && !path.startsWith('/dev/'));
    expect(files.sort()).toEqual([join(w.dir, `run/net-${name}/control.sock.lock`), join(w.dir, `state/net-${name}/log`)]);
    const daemons = w.host
      .run(`ip netns pids ${w.host.name} | while read p; do echo "$p $(tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; true`)
      .split('\n')
      .filter((l) => l.includes('engine-process.'))
      .map((l) => Number(l.split(' ')[0]));
    expect(daemons.length).toBeGreaterThan(0);
    const theirs = new Set(daemons.flatMap(open).map((l) => l.slice(l.indexOf(' ') + 1)));
    expect(mine.filter((l) => /(socket|pipe):/.test(l) && theirs.has(l.slice(l.indexOf(' ') + 1)))).toEqual([]);
    expect(theirs, 'its shell gave the daemon a descriptor').toContain('/etc/services');
  });

  test('a full disk interrupts no flow: leases are saved when there is room again', async () => {
    const dir = join(w.dir, 'state/net-shared');
    // the process has the daemon's mounts, and may open only the directory that existed at its start
    const another = async (): Promise<number> => {
      const before = pidOf('shared');
      process.kill(before, 'SIGKILL');
      // its command line is empty for an instant, while it executes itself behind the fence
      const pid = await until('there is another process', () => processes().find((p) => p.line.includes('net-shared/') && p.pid !== before)?.pid);
      await until('its cable is in', async () => (await e.observe()).nics.every((n) => n.healthy));
      return pid;
    };
    const mounts = (...argv: string[]) => execFileSync('nsenter', ['-m', '-t', String(pidOf('shared')), ...argv]);
    mounts('mount', '-t', 'tmpfs', '-o', 'size=16k,mode=700,uid=1639999001,gid=1639999000', 'tmpfs', dir);
    try {
      const pid = await another();
      const seen = join(`/proc/${pid}/root`, dir);
      writeFileSync(join(seen, 'ballast'), Buffer.alloc(8 << 10));
      const log = (): string => readFileSync(join(seen, 'log'), 'utf8');
      await until('nothing is free', () => {
        try {
          writeFileSync(join(seen, 'more'), Buffer.alloc(4 << 10), { flag: 'a' });
          return false;
        } catch {
          return true;
        }
      });
      expect(await dhcp(w, vm1)).not.toBeNull();
      await until('the failure is in the log', () => log().includes('the leases cannot be saved'));
      rmSync(join(seen, 'ballast'));
      await until('they are saved', () => existsSync(join(seen, 'leases.json')));
      expect(pidOf('shared')).toBe(pid);
    } finally {
      mounts('umount', '-l', dir);
      await another();
    }
    expect(await dhcp(w, vm1)).not.toBeNull();
    expect(await greeting(vm1, 'tcp', OUT, 8080)).toBe(`outside sees ${HOST}`);
  });

  test.each([
    ['outwards', 'to = ("198.51.100.1", 9)'],
    ['as answers from a forwarded port', 's.bind(("", 5353)); to = s.recvfrom(100)[1]'],
  ])('B91: a guest sends more datagrams %s than the host’s link takes: they are dropped by name, and the process stays as it is', async (_what, to) => {
    const pid = pidOf('shared');
    /** Frames of the guest, and those of them that found no room on the way out. */
    const counted = async (): Promise<{ sent: number; lost: number }> => {
      const stats = (await e.stats()).find((n) => n.id === vmId(1));
      return { sent: stats?.txPackets ?? 0, lost: stats?.drops['queue_full'] ?? 0 };
    };
    // a queue as large as the kernel allows
    w.host.run('tc qdisc add dev en0 root tbf rate 10mbit burst 32k limit 100m');
    try {
      const [before, earlier] = [memoryOf(pid), await counted()];
      const sent = vm1.ask(`python3 -c '
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
${to}
end = time.time() + 3
n = 0
while time.time() < end:
  s.sendto(bytes(1400), to)
  n += 1
print(n)'`);
      const asked = setInterval(() => w.outside.attempt("bash -c 'echo x >/dev/udp/10.9.0.2/5353'"), 300);
      const n = Number(await sent);
      clearInterval(asked);
      const grown = memoryOf(pid) - before;
      const now = await counted();
      const [arrived, lost] = [now.sent - earlier.sent, now.lost - earlier.lost];
      console.info(`${n} datagrams, ${arrived} of them arrived, ${lost} were dropped, the process has ${grown >> 20} MB more`);
      expect(lost).toBeGreaterThan(arrived / 2);
      expect(grown).toBeLessThan(64 << 20);
    } finally {
      w.host.run('tc qdisc del dev en0 root');
    }
    expect(await greeting(vm1, 'tcp', OUT, 8080)).toBe(`outside sees ${HOST}`);
  });

  test('B60: rules for ports below 1024 work, also when added later', async () => {
    expect(await greeting(w.outside, 'tcp', HOST, 80)).toBe(`vm1 sees ${OUT}`);
    const more = state(nic(1, 'shared', { ownerUid: VM_UID, rules: [rule(80, 8080), rule(443, 8080)] }), nic(2, 'host', { ownerUid: VM_UID + 1 }));
    expect(await e.apply(more)).toEqual([]);
    await until('the new rule works', async () => (await greet(w.outside, 'tcp', HOST, 443)) === `vm1 sees ${OUT}`);
    expect(await e.apply(desired())).toEqual([]);
  });

  test('B6: its flows survive the daemon’s death, and the next daemon adopts it', async () => {
    const [before, out, inwards] = [pidOf('shared'), await flow(vm1, OUT, 8080), await flow(w.outside, HOST, 80)];
    await e.kill();
    const died = [await out.echoed(), await inwards.echoed()];
    await until(
      'both go on without a daemon',
      async () => (await out.echoed()).bytes > died[0].bytes + 20 && (await inwards.echoed()).bytes > died[1].bytes + 20,
    );
    e = new RemoteEngine(w, 'user', 'root');
    expect(await e.apply(desired())).toEqual([]);
    const found = [await out.echoed(), await inwards.echoed()];
    await until(
      'both go on with the next',
      async () => (await out.echoed()).bytes > found[0].bytes + 20 && (await inwards.echoed()).bytes > found[1].bytes + 20,
    );
    expect([out.end(), inwards.end(), pidOf('shared')]).toEqual([null, null, before]);
    out.stop();
    inwards.stop();
  });

  test('a symbolic link in its directory is followed neither by the next process nor by the daemon', async () => {
    const precious = join(w.dir, 'precious');
    writeFileSync(precious, 'precious');
    expect(await e.apply({ ...state(), networks: [] })).toEqual([]);
    expect(processes()).toEqual([]);
    const dir = join(w.dir, 'state/net-shared');
    const leases = JSON.parse(readFileSync(join(dir, 'leases.json'), 'utf8'));
    leases.networks.shared.push({ ...leases.networks.shared[0], id: vmId(9), ip: 0xc0a840fa });
    writeFileSync(join(dir, 'leases.json'), JSON.stringify(leases));
    symlinkSync(precious, join(dir, 'leases.json.part'));
    await e.forgetNic(vmId(9));
    expect(readFileSync(join(dir, 'leases.json'), 'utf8')).not.toContain(vmId(9));
    expect(statSync(join(dir, 'leases.json')).uid, 'it stays the process’s').toBe(1_639_999_001);
    for (const file of ['log', 'leases.json']) {
      rmSync(join(dir, file));
      symlinkSync(precious, join(dir, file));
    }
    expect(await e.apply(desired())).toEqual([]);
    expect(await dhcp(w, vm1)).not.toBeNull();
    await until('the leases are saved', () => lstatSync(join(dir, 'leases.json')).isFile());
    expect(lstatSync(join(dir, 'log')).isFile()).toBe(true);
    expect([readFileSync(precious, 'utf8'), statSync(precious).uid]).toEqual(['precious', 0]);
  });

  test('B92: a link in place of its control socket leads the daemon to no other socket', async () => {
    expect(await e.apply({ ...state(), networks: [] })).toEqual([]);
    const other = join(w.dir, 'other.sock');
    const server = w.host.spawn([
      process.execPath,
      '-e',
      `require('net').createServer((s) => s.on('data', console.log)).listen('${other}', () => console.log('ready'))`,
    ]);
    const said: string[] = [];
    server.stdout?.on('data', (d: Buffer) => said.push(d.toString()));
    await until('it listens', () => said.length > 0);
    chmodSync(other, 0o600);
    symlinkSync(other, join(w.dir, 'run/net-shared/control.sock'));
    expect(await e.apply(desired())).toEqual([]);
    expect(await dhcp(w, vm1)).not.toBeNull();
    server.kill('SIGKILL');
    expect(said).toEqual(['ready\n']);
  });

  test('B92: a card’s socket is readable by the process of its network only, also after it has moved', async () => {
    const owner = (n: number): [number, number] => [lstatSync(cardSocket(n)).uid, lstatSync(cardSocket(n)).mode & 0o777];
    expect([owner(1), owner(2)]).toEqual([
      [1_639_999_001, 0o600],
      [1_639_999_002, 0o600],
    ]);
    for (const user of [VM_UID, VM_UID + 1, 1_639_999_002])
      expect(await tries(w.host, 'connect', [cardSocket(1)], user)).toEqual(refused('connect', [cardSocket(1)]));
    expect(await e.apply(state(nic(1, 'host', { ownerUid: VM_UID }), nic(2, 'host', { ownerUid: VM_UID + 1 })))).toEqual([]);
    expect(owner(1)).toEqual([1_639_999_002, 0o600]);
    expect((await dhcp(w, vm1))?.ip).toMatch(/^192\.168\.128\./);
    expect(await e.apply(desired())).toEqual([]);
    expect(owner(1)).toEqual([1_639_999_001, 0o600]);
    expect((await dhcp(w, vm1))?.ip).toMatch(/^192\.168\.64\./);
  });

  test('B92: what a taken-over QEMU puts in place of a new card’s socket is not taken: link, hard link, fifo, file, directory, in any order', async () => {
    const victim = join(w.dir, 'run/net-host/control.sock');
    const precious = join(w.dir, 'precious2');
    writeFileSync(precious, 'precious', { mode: 0o600 });
    const states = (): unknown[] => [victim, precious, cardSocket(1)].map((p) => [lstatSync(p).ino, lstatSync(p).uid, lstatSync(p).gid, lstatSync(p).mode]);
    const before = states();
    const inbox = dirname((await e.openNic(vmId(1))).path);
    const tricks = [`ln -s ${victim} S`, `ln -s ${precious} S`, 'mkfifo S', 'touch S', 'mkdir -p S/S'].map((t) => t.replaceAll('S', `${inbox}/qemu.sock`));
    for (const trick of tricks) {
      await e.openNic(vmId(1));
      w.host.run(asOther(trick, VM_UID));
      await expect(e.listening(vmId(1)), trick).rejects.toThrow(/is not a socket of this VM/);
    }
    // where the kernel does not protect hard links (fs.protected_hardlinks)
    await e.openNic(vmId(1));
    linkSync(victim, join(inbox, 'qemu.sock'));
    await expect(e.listening(vmId(1))).rejects.toThrow(/is not a socket of this VM/);
    writeFileSync(join(w.dir, 'race'), `while :; do ${tricks.map((t) => `${t}; rm -rf ${inbox}/qemu.sock`).join('; ')}; done 2>/dev/null`);
    const racer = w.host.spawn(asOther(`sh ${w.dir}/race`, VM_UID).split(' '));
    for (let i = 0; i < 10; i++) {
      await e.openNic(vmId(1));
      await expect(e.listening(vmId(1))).rejects.toThrow();
    }
    racer.kill('SIGKILL');
    expect(states()).toEqual(before);
    expect(readdirSync(dirname(cardSocket(1)))).toEqual(['qemu.sock']);
    expect(await greet(vm1, 'tcp', OUT, 8080)).toBe(`outside sees ${HOST}`);
  });

  test('B90: killed during a change, which is still made', async () => {
    for (const port of [443, 444, 445]) {
      const before = pidOf('shared');
      const more = state(nic(1, 'shared', { ownerUid: VM_UID, rules: [rule(80, 8080), rule(port, 8080)] }), nic(2, 'host', { ownerUid: VM_UID + 1 }));
      const applied = e.apply(more);
      process.kill(before, 'SIGKILL');
      expect(await applied).toEqual([]);
      await until('the new rule works', async () => (await greet(w.outside, 'tcp', HOST, port)) === `vm1 sees ${OUT}`);
    }
    expect(await e.apply(desired())).toEqual([]);
  });

  test('B90: while one network’s process is stopped, the other’s flows continue and new ones start; it is replaced, and the guest served again', async () => {
    const going = await flow(vm2, HOST_GATEWAY, 8080);
    const [pid, other] = [pidOf('shared'), pidOf('host')];
    process.kill(pid, 'SIGSTOP');
    const before = await going.echoed();
    await until('the other network’s flow goes on', async () => (await going.echoed()).bytes > before.bytes + 20);
    expect(await greeting(vm2, 'tcp', HOST_GATEWAY, 8080)).toMatch(/^host sees /);
    await until('the rule works again', async () => (await greet(w.outside, 'tcp', HOST, 80)) === `vm1 sees ${OUT}`);
    expect(pidOf('shared')).not.toBe(pid);
    expect([going.end(), pidOf('host')]).toEqual([null, other]);
    going.stop();
  });

  test('B67, B90: while a guest floods one network, a transfer on the other is complete', async () => {
    const load = vm1.spawn([process.execPath, '-e', TRANSFER, OUT, '0']);
    await new Promise((resolve) => load.stdout?.once('data', resolve));
    expect(await vm2.ask(`${process.execPath} -e "${TRANSFER}" ${HOST_GATEWAY} ${MOVED}`)).toContain(`echoed ${MOVED}`);
    expect(load.exitCode).toBe(null);
    load.kill('SIGKILL');
  });

  test('B90: killed, it recovers with its links, leases and rules; the other network is unaffected', async () => {
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
