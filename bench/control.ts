/**
 * The control plane: what the daemon costs while nothing happens, and how long commands take, with few and many VMs.
 *
 * Theory of operation: times are multiples of `node -e 0`, measured beside each of them, so that runs on machines of
 * different speed compare. The guest is a boot sector that halts. Programs that the daemon starts are counted by
 * strace(1), in another window than its CPU time, as strace slows it down.
 *
 * Limits: the kernel engine only.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Qmp } from '../src/vm/qmp.ts';
import { Anka } from '../test/world/anka.ts';
import { until, World } from '../test/world/world.ts';
import { cpuOfTree, resident } from './cost.ts';
import { median, table } from './stats.ts';

/** Window in which an idle daemon is watched, ms. */
const IDLE_MS = 20_000;
/** Before that window, for what a change still causes. */
const SETTLE_MS = 10_000;
const BUSY_PROGRAMS = 4;
const MAIN = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const VM_OPTIONS = '-m 64M -c 1 -d 64M';

/** A disk whose boot sector is `cli; 1: hlt; jmp 1b`. */
function haltingDisk(file: string): string {
  const disk = Buffer.alloc(1 << 20);
  disk.set([0xfa, 0xf4, 0xeb, 0xfd]);
  disk.writeUInt16LE(0xaa55, 510);
  writeFileSync(file, disk, { mode: 0o644 });
  return file;
}

/** One figure, with the aim of it. */
interface Row {
  what: string;
  value: number;
  digits: number;
  unit: string;
  wanted: string;
}

class ControlBench {
  readonly #world: World;
  readonly #anka: Anka;
  readonly #disk: string;
  readonly #rounds: number;
  readonly #idleMs: number;
  #vms = 0;
  #names = 0;

  constructor(world: World, quick: boolean) {
    this.#world = world;
    this.#disk = haltingDisk(join(world.dir, 'halt.img'));
    this.#anka = new Anka(world, this.#disk);
    this.#rounds = quick ? 3 : 7;
    this.#idleMs = quick ? 5000 : IDLE_MS;
  }

  async begin(): Promise<void> {
    await this.#anka.ok('config engine kernel');
  }

  async end(): Promise<void> {
    await this.#anka.end();
  }

  /** Milliseconds of each shell line, timed inside the namespace by bash. */
  async #times(lines: readonly string[]): Promise<number[]> {
    const env = Object.entries(this.#anka.env).map(([k, v]) => `export ${k}=${v}`);
    const anka = `anka() { ${process.execPath} ${MAIN} "$@"; }`;
    const timed = lines.map((l) => `a=$EPOCHREALTIME; ${l} >/dev/null || exit 1; echo $a $EPOCHREALTIME`);
    const file = join(this.#world.dir, 'timed.sh');
    writeFileSync(file, [...env, anka, ...timed].join('\n'));
    const said = await this.#world.host.ask(`exec bash ${file}`);
    if (said === null) throw new Error(`a command failed: ${lines.join('; ')}`);
    return said
      .trim()
      .split('\n')
      .map((l) => {
        const [from, to] = l.split(' ').map(Number) as [number, number];
        return (to - from) * 1000;
      });
  }

  /** Medians of several rounds of each line, as multiples of `node -e 0`, which is timed in the same rounds. */
  async #ratios(lines: readonly string[]): Promise<number[]> {
    const bare = `${process.execPath} -e 0`;
    const rounds: number[][] = [];
    for (let r = 0; r < this.#rounds; r++) rounds.push(await this.#times([bare, ...lines]));
    const [unit, ...each] = rounds[0]!.map((_, i) => median(rounds.map((round) => round[i] as number))) as [number, ...number[]];
    return each.map((ms) => ms / unit);
  }

  /** Creates and starts VMs one after the other until there are `count`. Returns seconds. */
  async grow(count: number): Promise<number> {
    const began = performance.now();
    while (this.#vms < count) {
      process.stderr.write(`\r\x1b[Kstarting VM ${this.#vms + 1} of ${count}`);
      await this.#anka.ok(`create ${VM_OPTIONS} -a ${this.#disk} vm${this.#vms}`);
      await this.#anka.ok(`start vm${this.#vms++}`);
    }
    process.stderr.write('\r\x1b[K');
    return (performance.now() - began) / 1000;
  }

  async figures(): Promise<Row[]> {
    const n = this.#vms === 1 ? '1 VM' : `${this.#vms} VMs`;
    const row = (what: string, value: number, unit: string, wanted = '', digits = 2): Row => ({ what: `${what}, ${n}`, value, digits, unit, wanted });
    const pid = this.#anka.daemonPid() as number;
    await sleep(SETTLE_MS);
    const programs = await this.#programsIn(pid);
    const percent = await this.#cpuIn(pid);
    const memory = resident([pid]);
    const [list, show, completion] = await this.#ratios(['anka list', 'anka show vm0', 'anka completion bash']);
    const [add, del] = await this.#ratios(this.#ruleCommands());
    const busy = await this.#busy(() => this.#ratios(this.#ruleCommands()));
    const [start, qemu, stop] = await this.#startTimes();
    return [
      row(`programs started by the daemon in ${this.#idleMs / 1000} idle seconds`, programs, '', '0', 0),
      row('CPU of the daemon with its children, idle', percent, '%', this.#vms === 1 ? 'below 0.3' : 'below 1'),
      row('anka list', list as number, '×', 'at most 1.8'),
      row('anka show', show as number, '×', 'at most 1.8'),
      row('anka completion', completion as number, '×', 'at most 1.8'),
      row('add port-forwarding', add as number, '×', 'at most 2.2'),
      row('delete port-forwarding', del as number, '×', 'at most 2.2'),
      row(`add port-forwarding beside ${BUSY_PROGRAMS} busy programs`, busy[0] as number, '×', 'at most 3'),
      row(`delete port-forwarding beside ${BUSY_PROGRAMS} busy programs`, busy[1] as number, '×', 'at most 3'),
      row('start of one more VM', start, '×'),
      row('QEMU alone, with the same arguments', qemu, '×'),
      row("start over QEMU's own", start - qemu, '×', 'at most 4'),
      row('stop -f', stop, '×', 'at most 4'),
      row('resident memory of the daemon', memory, 'MiB', this.#vms === 1 ? '70' : '80', 0),
    ];
  }

  #ruleCommands(): string[] {
    const name = `r${this.#names++}`;
    return [`anka modify vm0 add port-forwarding -g 22 ${name}`, `anka modify vm0 delete port-forwarding ${name}`];
  }

  /** How many programs a process and its descendants start while they are idle. */
  async #programsIn(pid: number): Promise<number> {
    const trace = join(this.#world.dir, 'execs');
    const strace = spawn('strace', ['-f', '-z', '-qq', '-e', 'trace=execve', '-o', trace, '-p', String(pid)], { stdio: 'ignore' });
    const exited = new Promise((resolve) => strace.once('close', resolve));
    await sleep(this.#idleMs);
    strace.kill('SIGINT');
    await exited;
    const count = readFileSync(trace, 'utf8').match(/execve\(/g)?.length ?? 0;
    rmSync(trace);
    return count;
  }

  /** CPU of a process and its descendants without QEMU while they are idle, percent of a core. */
  async #cpuIn(pid: number): Promise<number> {
    const [before, began] = [cpuOfTree(pid, isQemu), performance.now()];
    await sleep(this.#idleMs);
    return ((cpuOfTree(pid, isQemu) - before) / (performance.now() - began)) * 1e5;
  }

  async #busy<T>(work: () => Promise<T>): Promise<T> {
    const programs: ChildProcess[] = [];
    for (let i = 0; i < BUSY_PROGRAMS; i++) programs.push(spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' }));
    try {
      return await work();
    } finally {
      for (const p of programs) p.kill('SIGKILL');
    }
  }

  /** Start of one more VM, of its QEMU without anka, and its forced stop, as multiples of `node -e 0`. */
  async #startTimes(): Promise<[start: number, qemu: number, stop: number]> {
    await this.#anka.ok(`create ${VM_OPTIONS} -a ${this.#disk} more`);
    const qemu: number[] = [];
    const times: number[][] = [];
    for (let r = 0; r < this.#rounds; r++) {
      const [unit, start] = (await this.#times([`${process.execPath} -e 0`, 'anka start more'])) as [number, number];
      const words = qemuWords((await this.#anka.body<{ uuid: string }>('show more')).uuid);
      const [stop] = (await this.#times(['anka stop -f more'])) as [number];
      times.push([unit, start, stop]);
      qemu.push(await this.#timeQemu(words));
    }
    await this.#anka.ok('delete --yes more');
    const [unit, start, stop] = [0, 1, 2].map((i) => median(times.map((t) => t[i] as number))) as [number, number, number];
    return [start / unit, median(qemu) / unit, stop / unit];
  }

  /** Milliseconds from QEMU's start by hand until its CPUs run. */
  async #timeQemu(words: readonly string[]): Promise<number> {
    const socket = join(this.#world.dir, 'qmp');
    const own = ['-chardev', `socket,id=qmp,path=${socket},server=on,wait=off`, '-netdev', 'tap,id=net0,ifname=byhand,script=no,downscript=no'];
    const began = performance.now();
    const child = this.#world.host.spawn([...words, ...own]);
    const exited = new Promise((resolve) => child.once('close', resolve));
    const qmp = await until('QEMU answers', () => Qmp.connect(socket).catch(() => null));
    await qmp.command('cont');
    const ms = performance.now() - began;
    await qmp.command('quit').catch(() => {}); // it may exit before it answers
    await exited;
    return ms;
  }
}

function isQemu(pid: number): boolean {
  return readlinkSync(`/proc/${pid}/exe`).includes('qemu-system');
}

/** The arguments of a VM's QEMU without those that name inherited descriptors: monitor, console, tap and seed. */
function qemuWords(uuid: string): string[] {
  for (const pid of readdirSync('/proc').filter((n) => /^\d+$/.test(n))) {
    const words = commandOf(pid);
    if (!words.includes(uuid) || !words[0]?.includes('qemu-system')) continue;
    const kept: string[] = [];
    for (let i = 0; i < words.length; i++) {
      const value = words[i + 1] ?? '';
      const named = ['-chardev', '-add-fd', '-netdev', '-drive'].includes(words[i] as string) && /\bfds?=|fdset/.test(value);
      if (named || value === 'chardev:con') i++;
      else kept.push(words[i] as string);
    }
    return kept;
  }
  throw new Error(`no QEMU runs ${uuid}`);
}

function commandOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
  } catch {
    return []; // it has exited
  }
}

/** Prints the table for each number of VMs, and returns the rows. */
export async function benchControl(quick: boolean, counts: readonly number[]): Promise<object> {
  const w = new World('bc-');
  try {
    const bench = new ControlBench(w, quick);
    await bench.begin();
    const rows: Row[] = [];
    for (const count of counts) {
      const seconds = await bench.grow(count);
      if (count > 1)
        rows.push({ what: `creating and starting VMs until there are ${count}`, value: seconds, digits: 0, unit: 's', wanted: count === 30 ? '60' : '' });
      rows.push(...(await bench.figures()));
    }
    await bench.end();
    console.log(
      `\n${table(
        ['', 'found', 'wanted'],
        rows.map((r) => [r.what, `${r.value.toFixed(r.digits)} ${r.unit}`.trim(), r.wanted]),
      )}`,
    );
    return Object.fromEntries(rows.map((r) => [r.what, r.value]));
  } finally {
    w.close();
  }
}
