/** An engine in a process inside a namespace, driven by the test over JSON lines. */
import { type ChildProcess, execFileSync } from 'node:child_process';
import { chownSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { DesiredState, DoctorFinding, EngineProblem, HelperHealth, NicStats, ObservedState } from '../../src/engine/engine.ts';
import type { Explanation } from '../../src/net/explain/explanation.ts';
import type { Packet } from '../../src/net/explain/packet.ts';
import { builtMain } from './built.ts';
import type { World } from './world.ts';

/** The user id of nobody. */
export const ORDINARY = 65_534;
/** Runs a program without privileges, and without a way to gain any. */
export const AS_ORDINARY_USER = [
  ...['setpriv', `--reuid=${ORDINARY}`, `--regid=${ORDINARY}`, '--clear-groups', '--no-new-privs'],
  ...['--inh-caps=-all', '--bounding-set=-all', 'env', 'HOME=/nonexistent'],
];

/** Runs a program as root without the capabilities that eBPF needs. */
export const WITHOUT_EBPF = ['setpriv', '--bounding-set=-sys_admin,-bpf,-perfmon', '--inh-caps=-sys_admin,-bpf,-perfmon'];

/**
 * Runs a program as root that may load eBPF, but not look programs up by id, so that tcx is not available. The bpf file
 * system is mounted first, as `tc` lacks the right to do so then.
 */
const WITHOUT_TCX = ['sh', '-c', 'mount -t bpf bpf /sys/fs/bpf && exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@"', 'sh'];

/**
 * Runs a program with open descriptors and environment variables of a user's shell, which no helper process may
 * inherit.
 */
const FROM_A_SHELL = ['env', 'SECRET_OF_TEST=1', 'NODE_OPTIONS=--trace-warnings', 'bash', '-c', 'exec 9</etc/services 251</etc/services; exec "$@"', 'bash'];

/** Takes a process's unused descriptors away (EMFILE); the function gives them back. */
export function takeDescriptors(pid: number): () => void {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let free = 0;
  while (open.has(free)) free++;
  const [, soft, hard] = /^Max open files +(\S+) +(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8')) ?? [];
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const id = (row: string): string => new RegExp(`^${row}:\\t(\\d+)`, 'm').exec(status)?.[1] ?? '0';
  // as the process's user: root without CAP_SYS_RESOURCE may not change the limits of others
  const as = [`--reuid=${id('Uid')}`, `--regid=${id('Gid')}`, '--clear-groups'];
  const limit = (value: string): void => void execFileSync('setpriv', [...as, 'prlimit', `--pid=${pid}`, `--nofile=${value}`]);
  limit(`${free}:${hard}`);
  return () => limit(`${soft}:${hard}`);
}

export class RemoteEngine {
  readonly child: ChildProcess;
  #next = 1;
  #waiting = new Map<number, { resolve: (v: unknown) => void; reject: (e: Error) => void }>();
  readonly ready: Promise<void>;

  /**
   * `root`: the user engine runs as root too. `programs`: a directory that comes first on its PATH. `more`: further
   * variables of its environment.
   */
  constructor(
    world: World,
    kind: 'kernel' | 'user',
    rights: 'usual' | 'no-ebpf' | 'no-tcx' | 'root' = 'usual',
    programs = '',
    more: Record<string, string> = {},
  ) {
    const ordinary = kind === 'user' && rights !== 'root';
    const run = join(world.dir, 'run');
    const state = join(world.dir, 'state');
    mkdirSync(run, { recursive: true });
    mkdirSync(state, { recursive: true });
    builtMain();
    const program = [process.execPath, fileURLToPath(new URL('engine-process.mjs', import.meta.url)), kind, run, state];
    if (ordinary) for (const dir of [run, state]) chownSync(dir, ORDINARY, ORDINARY);
    const as = ordinary ? AS_ORDINARY_USER : { usual: [], 'no-ebpf': WITHOUT_EBPF, 'no-tcx': WITHOUT_TCX, root: FROM_A_SHELL }[rights];
    const inEtc = world.etc === null ? [] : ['unshare', '-m', 'sh', '-c', `mount --bind ${world.etc} /etc && exec "$@"`, 'sh'];
    this.child = world.host.spawn([...inEtc, ...as, ...program], programs === '' ? more : { ...more, PATH: `${programs}:${process.env['PATH']}` });
    let ready: () => void;
    let failed: (e: Error) => void;
    this.ready = new Promise((resolve, reject) => {
      ready = resolve;
      failed = reject;
    });
    createInterface({ input: this.child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const m = JSON.parse(line) as { ready?: boolean; id?: number; result?: unknown; error?: string };
      if (m.ready) return ready();
      const w = this.#waiting.get(m.id ?? 0);
      this.#waiting.delete(m.id ?? 0);
      if (m.error !== undefined) w?.reject(new Error(m.error));
      else w?.resolve(m.result);
    });
    this.child.on('exit', () => {
      const gone = new Error('the engine’s process exited');
      failed(gone);
      for (const w of this.#waiting.values()) w.reject(gone);
      this.#waiting.clear();
    });
    this.ready.catch(() => {}); // the first call reports it
  }

  async #call<T>(method: string, ...params: unknown[]): Promise<T> {
    await this.ready;
    if (this.child.exitCode !== null || this.child.signalCode !== null) throw new Error('the engine’s process has exited');
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (v: unknown) => void, reject });
      this.child.stdin?.write(`${JSON.stringify({ id, method, params })}\n`);
    });
  }

  validate(d: DesiredState): Promise<EngineProblem[]> {
    return this.#call('validate', d);
  }
  apply(d: DesiredState): Promise<EngineProblem[]> {
    return this.#call('apply', d);
  }
  observe(): Promise<ObservedState> {
    return this.#call('observe');
  }
  stats(): Promise<NicStats[]> {
    return this.#call('stats');
  }
  doctor(): Promise<DoctorFinding[]> {
    return this.#call('doctor');
  }
  helpers(): Promise<HelperHealth[]> {
    return this.#call('helpers');
  }
  explain(id: string, packet: Packet): Promise<Explanation> {
    return this.#call('explain', id, packet);
  }
  openNic(id: string): Promise<{ kind: string; path: string }> {
    return this.#call('openNic', id);
  }
  /** As the daemon calls it once QEMU listens at that path. */
  listening(id: string): Promise<void> {
    return this.#call('listening', id);
  }
  /** How often the engine has reported a possible change, as after each check that changes of the host caused. */
  reports(): Promise<number> {
    return this.#call('reports');
  }
  streamSocket(id: string): Promise<string | null> {
    return this.#call('streamSocket', id);
  }
  forgetNic(id: string): Promise<void> {
    return this.#call('forgetNic', id);
  }
  reset(): Promise<string[]> {
    return this.#call('reset');
  }
  /** Kills it with SIGKILL, as the daemon by kill -9. */
  kill(): Promise<void> {
    const gone = new Promise<void>((resolve) => this.child.once('exit', () => resolve()));
    this.child.kill('SIGKILL');
    return gone;
  }
}
