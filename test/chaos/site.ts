/**
 * Where a chaos run takes place: a host with anka, two real guests, and an outside machine.
 *
 * Theory of operation: everything is in namespaces of its own. The host's programs share one mount namespace, in which
 * /etc is a copy: so resolv.conf can be anything, and /etc/ld.so.preload gives all of them another date (date.c). The
 * state directory is a small tmpfs. Guests are commanded by their serial console, which needs no network.
 */
import { type ChildProcess, execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Client } from '../../src/api/client.ts';
import type { RuleRequest } from '../../src/api/types.ts';
import { serve } from '../contract/guest-tools.ts';
import { Anka, type Result } from '../world/anka.ts';
import { guestWith } from '../world/guest-image.ts';
import { until, World } from '../world/world.ts';
import { GuestConsole } from './console.ts';

export type Engine = 'kernel' | 'user';

const RULES = [
  ['web', 'tcp'],
  ['game', 'udp'],
] as const;

export const HOST = '10.9.0.2';
/** An address that the host has for a while. */
export const OTHER = '10.9.0.99';
export const OUTSIDE = '10.9.0.1';
/** Size of the state directory: two disks, saved memory of one guest, logs. */
const STATE_BYTES = 320 << 20;
/** A command that takes longer hangs (ms). Loaded machines and stopped processes included. */
const COMMAND_LIMIT_MS = 300_000;
/** A restarted guest has to be up in this time (ms). */
const BOOT_LIMIT_MS = 600_000;
const FIRST_ANSWER_MS = 2000;
/** Where a restarted daemon, and what it starts, find the date. */
const DATE_FILE = 'anka-test-date';
const HELPERS = /(service|network)-main[.]js/;

export interface Guest {
  /** Its name, when nobody has renamed it. */
  readonly name: string;
  readonly uuid: string;
  readonly console: GuestConsole;
  readonly rules: readonly Rule[];
  /** Boot identifier of the guest in which the servers were started. */
  booted: string;
}

export interface Rule {
  name: string;
  protocol: 'tcp' | 'udp';
  hostPort: number;
  /** What creates it. */
  request: RuleRequest;
}

export interface Fault {
  command: string;
  why: string;
}

export class Site {
  readonly engine: Engine;
  readonly world: World;
  readonly anka: Anka;
  readonly etc: string;
  readonly guests: Guest[] = [];
  /** What was wrong with commands: hangs, stack traces. */
  readonly faults: Fault[] = [];
  /** Pid of the daemon that must be running; null after one was ended on purpose. */
  daemon: number | null = null;
  /** It holds the mount namespace of the host's programs. */
  readonly #keeper: ChildProcess;
  #traffic: ChildProcess[] = [];
  readonly #pending = new Set<Promise<unknown>>();

  constructor(engine: Engine) {
    this.engine = engine;
    this.world = new World(`x${engine.slice(0, 1)}-`);
    const { dir, host } = this.world;
    this.etc = join(dir, 'etc');
    execFileSync('cp', ['-a', '/etc', this.etc]);
    this.setResolvConf(`nameserver ${OUTSIDE}\n`);
    const library = join(dir, 'date.so');
    execFileSync('cc', ['-O2', '-shared', '-fPIC', '-o', library, fileURLToPath(new URL('../world/date.c', import.meta.url))]);
    writeFileSync(join(this.etc, DATE_FILE), Buffer.alloc(8));
    writeFileSync(join(this.etc, 'ld.so.preload'), `${library}\n`);
    // before the mount namespace is made, which would not see it later
    mkdirSync(join(dir, 'h'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${STATE_BYTES},mode=755`, 'tmpfs', join(dir, 'h')]);
    this.#keeper = host.spawn(['sh', '-c', `mount --bind ${this.etc} /etc && echo mounted && exec sleep infinity`]);
    const sources = ['chaos/guest/serve.c', 'chaos/guest/probe.sh', 'chaos/guest/traffic.sh', 'world/greet.c'];
    const image = guestWith(dir, 'chaos-guest', ...sources.map((f) => new URL(`../${f}`, import.meta.url)));
    const base = join(image, 'base.json');
    // the kernel's own test of its timer fails where an emulated CPU waits too long
    writeFileSync(base, readFileSync(base, 'utf8').replace('console=', 'no_timer_check console='));
    this.anka = new Anka(this.world, image, { ordinary: engine === 'user', inside: ['nsenter', `--mount=/proc/${this.#keeper.pid}/ns/mnt`] });
  }

  /** Starts the outside, the guests, and the traffic. */
  async begin(): Promise<void> {
    const { world, anka } = this;
    await new Promise((resolve) => this.#keeper.stdout?.once('data', resolve));
    world.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    await serve(world.outside, 8080, 'outside');
    await serve(world.host, 8081, 'host');
    const options = ['--no-resolv', '--no-hosts', '--user=root', `--listen-address=${OUTSIDE}`, '--bind-interfaces', '--address=/outside.test/203.0.113.1'];
    world.outside.spawn(['dnsmasq', '-k', '--conf-file=/dev/null', '--pid-file=', ...options]);
    await until('the daemon runs', async () => (await anka.run(['list'])).status === 0);
    this.daemon = anka.daemonPid();
    await this.api.put('/v1/config/engine', { value: this.engine });
    for (const n of [1, 2]) await this.#addGuest(n);
    this.#traffic = [this.world.outside, this.world.host].map((ns) => ns.spawn([process.execPath, TRAFFIC, ...this.#targets()]));
  }

  async #addGuest(n: number): Promise<void> {
    const name = `vm${n}`;
    const { uuid } = await this.api.post<{ uuid: string }>('/v1/vms', { name, ram_size: '96M', cpu_count: 1, disk_size: '1G' });
    const hostPort = 12_000 + n;
    const rules = RULES.map(([rule, protocol]) => ({
      name: rule,
      protocol,
      hostPort,
      request: { name: rule, guest_port: 8080, host_port: hostPort, protocol },
    }));
    for (const r of rules) await this.api.post(`/v1/vms/${uuid}/port-forwarding`, r.request);
    const path = () => join(this.anka.home, 'run/vm', uuid.slice(0, 8), 'console.sock');
    this.guests.push({ name, uuid, console: new GuestConsole(path), rules, booted: '' });
  }

  #targets(): string[] {
    const rules = this.guests.flatMap((g) => g.rules.map((r) => `${r.protocol}:${HOST}:${r.hostPort}`));
    return [...rules, `flow:${HOST}:${this.guests[0]?.rules[0]?.hostPort}`];
  }

  /** Successful attempts of each kind of traffic so far, of outside and of the host. */
  async traffic(): Promise<Record<string, number>[]> {
    return Promise.all(
      this.#traffic.map(
        (child) =>
          new Promise<Record<string, number>>((resolve) => {
            createInterface({ input: child.stdout as NodeJS.ReadableStream }).once('line', (line) => resolve(JSON.parse(line)));
            child.stdin?.write('\n');
          }),
      ),
    );
  }

  other(g: Guest): Guest {
    return this.guests.find((x) => x !== g) as Guest;
  }

  /** Waits until a guest is up, and starts its server and its traffic if it has booted anew. */
  async wake(g: Guest): Promise<void> {
    let limit = FIRST_ANSWER_MS;
    const bootId = async (): Promise<string | undefined> => {
      // what is typed while it boots is lost
      limit *= 1.5;
      const said = await g.console.run('cat /proc/sys/kernel/random/boot_id', limit);
      return /[0-9a-f]{8}-[0-9a-f-]{27}/.exec(said ?? '')?.[0];
    };
    const boot = await until(`${g.name} answers on its console`, bootId, BOOT_LIMIT_MS);
    if (boot === g.booted) return;
    await g.console.run(`(serve "guest ${g.name}" 8080 & traffic ${this.other(g).name} &) </dev/null >/dev/null 2>&1`);
    g.booted = boot;
  }

  /** The daemon's API. */
  get api(): Client {
    return new Client(join(this.anka.home, 'run/ankad.sock'));
  }

  /** Reads from the daemon. If it does not answer, a command is to start it, as for any user. */
  async read<T>(path: string): Promise<T> {
    const answer = this.daemon === null ? null : await this.api.get<T>(path).catch(() => null);
    if (answer !== null) return answer;
    const list = await this.command('list');
    if (list.status !== 0) throw new Error(`anka list: ${list.stderr.trim()}`);
    this.daemon ??= this.anka.daemonPid();
    return this.api.get<T>(path);
  }

  /** Runs a command. A hang and an exception are faults; any other failure is the caller's to judge. */
  async command(line: string): Promise<Result> {
    let timer: NodeJS.Timeout | undefined;
    const hang = new Promise<Result>((resolve) => {
      timer = setTimeout(() => {
        this.faults.push({ command: line, why: `it did not end within ${COMMAND_LIMIT_MS / 1000} s` });
        resolve({ status: 128, stdout: '', stderr: '' });
      }, COMMAND_LIMIT_MS);
    });
    const result = await Promise.race([this.anka.run(line.split(' ')), hang]);
    clearTimeout(timer);
    if (/^\s+at .*:\d+:\d+|(Type|Range|Reference)Error/m.test(result.stderr)) this.faults.push({ command: line, why: result.stderr });
    return result;
  }

  /** Ends the daemon on purpose. The next command starts another. */
  endDaemon(end: (pid: number | null) => void): void {
    this.daemon = null;
    end(this.anka.daemonPid());
  }

  /** Runs a command at the same time as what follows; `settled` waits for it. */
  begun(line: string): void {
    const command = this.command(line).finally(() => this.#pending.delete(command));
    this.#pending.add(command);
  }

  async settled(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#pending);
  }

  /** Processes of the host's namespace: pid and arguments. */
  processes(): { pid: number; args: string[] }[] {
    const pids = execFileSync('ip', ['netns', 'pids', this.world.host.name]).toString().trim();
    return pids.split('\n').flatMap((p) => {
      try {
        const args = readFileSync(`/proc/${p}/cmdline`, 'utf8').split('\0');
        return args[0] === '' ? [] : [{ pid: Number(p), args }];
      } catch {
        return []; // exited meanwhile
      }
    });
  }

  /** The service, or the network processes. */
  helpers(): number[] {
    return this.processes().flatMap(({ pid, args }) => (args.some((a) => HELPERS.test(a)) ? pid : []));
  }

  qemu(g: Guest): number[] {
    return this.processes().flatMap(({ pid, args }) => (args[0]?.includes('qemu-system') && args.includes(g.uuid) ? pid : []));
  }

  /** Replaces the host's resolv.conf by another file, as a rename does. */
  setResolvConf(text: string): void {
    const file = join(this.etc, 'resolv.conf');
    rmSync(file, { force: true, recursive: true });
    writeFileSync(file, text);
  }

  /** Moves the date of all programs of the host, seconds. */
  setDate(shift: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(shift));
    writeFileSync(join(this.etc, DATE_FILE), bytes, { flag: 'r+' });
  }

  /** The host's interface to the outside, whatever its name is now. */
  uplink(): string {
    return /^\d+: (en\d)@/m.exec(this.world.host.run('ip -o link show type veth'))?.[1] ?? 'en0';
  }

  /** Gives the interface to the outside its name, address and route again. */
  restoreUplink(): void {
    const now = this.uplink();
    if (now !== 'en0') this.rename(now, 'en0');
    this.world.host.run(`ip link set en0 up; ip addr replace ${HOST}/24 dev en0; ip route replace default via ${OUTSIDE}`);
    this.world.host.attempt(`ip addr del ${OTHER}/24 dev en0`);
  }

  /** Renames an interface, also where the kernel wants it down. */
  rename(from: string, to: string): void {
    this.world.host.run(`ip link set ${from} name ${to} 2>/dev/null || { ip link set ${from} down; ip link set ${from} name ${to}; ip link set ${to} up; }`);
  }

  signal(pids: readonly (number | null)[], signal: NodeJS.Signals): void {
    for (const pid of pids) {
      try {
        if (pid !== null) process.kill(pid, signal);
      } catch {
        // it has exited already
      }
    }
  }

  close(): void {
    for (const g of this.guests) g.console.close();
    // the processes of the mount namespace hold the tmpfs
    this.signal(
      this.processes().map((p) => p.pid),
      'SIGKILL',
    );
    execFileSync('umount', ['-l', join(this.world.dir, 'h')]);
    this.world.close();
  }
}

const TRAFFIC = fileURLToPath(new URL('traffic.mjs', import.meta.url));
