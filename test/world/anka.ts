/** Runs the compiled `anka` in a namespace, with its own state directory. */
import { chownSync, cpSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client } from '../../src/api/client.ts';
import { runsWith } from '../../src/host/process.ts';
import { builtMain } from './built.ts';
import { AS_ORDINARY_USER, ORDINARY, WITHOUT_EBPF } from './remote-engine.ts';
import { type Namespace, until, type World } from './world.ts';

export interface Result {
  status: number;
  stdout: string;
  stderr: string;
}

export class Anka {
  readonly home: string;
  readonly ns: Namespace;
  readonly env: Record<string, string>;

  /** Command prefix that sets user and rights. */
  readonly #as: readonly string[];
  readonly #main = builtMain();

  /**
   * `ordinary`: everything runs as an unprivileged user with a copy of the image. `withoutEbpf`: as root without the
   * capabilities that eBPF needs. `inside`: a command prefix that enters another mount namespace.
   */
  constructor(world: World, baseImage: string, options: { ordinary?: boolean; withoutEbpf?: boolean; inside?: readonly string[] } = {}) {
    this.ns = world.host;
    this.home = join(world.dir, 'h');
    this.#as = [...(options.inside ?? []), ...(options.ordinary ? AS_ORDINARY_USER : options.withoutEbpf ? WITHOUT_EBPF : [])];
    mkdirSync(this.home, { recursive: true, mode: 0o755 });
    this.env = { ANKA_HOME: this.home, ANKA_BASE_IMAGE: baseImage };
    if (!options.ordinary) return;
    const image = join(world.dir, 'image');
    cpSync(baseImage, image, { recursive: true });
    for (const path of [this.home, image, ...readdirSync(image).map((f) => join(image, f))]) chownSync(path, ORDINARY, ORDINARY);
    this.env['ANKA_BASE_IMAGE'] = image;
  }

  /** Removes every VM and every network object, and stops the daemon. */
  async end(): Promise<void> {
    await this.ok('delete --yes --all');
    await this.ok('network reset');
    await this.ok('daemon stop');
  }

  /** The command line of `anka` with these words, for a shell in the namespace. */
  commandLine(words: string): string {
    const env = Object.entries(this.env).map(([k, v]) => `${k}=${v}`);
    return [...this.#as, 'env', ...env, process.execPath, this.#main, words].join(' ');
  }

  /** Runs one command, given as separate words. `input` is its standard input. */
  run(words: readonly string[], options: { env?: Record<string, string>; input?: string } = {}): Promise<Result> {
    const child = this.ns.spawn([...this.#as, process.execPath, this.#main, ...words], { ...this.env, ...options.env }, 'pipe');
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout?.on('data', (d: Buffer) => out.push(d));
    child.stderr?.on('data', (d: Buffer) => err.push(d));
    child.stdin?.end(options.input ?? '');
    return new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (status) => resolve({ status: status ?? 128, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }));
    });
  }

  /** As `run`, with the line split at spaces; throws when the status is not 0. */
  async ok(line: string, options: { env?: Record<string, string>; input?: string } = {}): Promise<string> {
    const r = await this.run(line.split(' '), options);
    if (r.status !== 0) throw new Error(`anka ${line}: status ${r.status}: ${r.stderr}${r.stdout}`);
    return r.stdout;
  }

  /** The body of the JSON answer. */
  async body<T>(line: string): Promise<T> {
    return (JSON.parse(await this.ok(`-j ${line}`)) as { body: T }).body;
  }

  /** Pid of the daemon, or null. */
  daemonPid(): number | null {
    try {
      const pid = Number(readFileSync(join(this.home, 'ankad.lock'), 'utf8').split(' ')[0]);
      process.kill(pid, 0);
      return pid;
    } catch {
      return null; // no lock file, or its process has exited
    }
  }

  /** Kills the daemon with SIGKILL and waits until it has exited. */
  async killDaemon(): Promise<void> {
    const pid = this.daemonPid();
    if (pid === null) return;
    const program = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      .split('\0')
      .find((word) => /daemon\/main\.[jt]s$/.test(word)) as string;
    process.kill(pid, 'SIGKILL');
    await until('the daemon has exited', async () => !(await runsWith(pid, program)));
  }

  /**
   * Runs a command that connects a VM, and returns its guest's address. The command prints it, unless its wait for the
   * guest timed out, which may happen on a busy machine: then the address is waited for. `ip`: its expected prefix.
   */
  async plug(line: string, vm: string, type: 'shared' | 'host', ip = type === 'host' ? '192.168.128.' : '192.168.64.'): Promise<string> {
    const said = await this.ok(line);
    const printed = /(?:^|; )(\w+) is on (\w+)(?: with address (\S+)|; its guest has not requested an address \(it may use a static one\))\n$/.exec(said);
    if (printed?.[1] !== vm || printed[2] !== type) throw new Error(`anka ${line}: ${said}`);
    if (printed[3] === undefined)
      return until(`${vm} has an address of ${type}`, async () => ((await this.address(vm)).startsWith(ip) ? this.address(vm) : null));
    if (!printed[3].startsWith(ip)) throw new Error(`anka ${line}: ${said}`);
    return printed[3];
  }

  /** Waits until a ping in the guest is answered. */
  async reaches(vm: string, address: string): Promise<void> {
    await until(`${vm} reaches ${address}`, async () => (await this.run(['run', vm, 'ping', '-c1', '-W5', address])).status === 0);
  }

  /** Waits until a VM has an address, and returns it. */
  async address(vm: string): Promise<string> {
    const { ip, uuid } = await this.body<{ ip?: string; uuid: string }>(`show ${vm}`);
    if (ip) return ip;
    // by the API, as each command costs the CPU a fifth of a second; by the command if the daemon has exited meanwhile
    const api = new Client(join(this.home, 'run/ankad.sock'));
    const look = () => api.get<{ ip?: string }>(`/v1/vms/${uuid}`).catch(() => this.body<{ ip?: string }>(`show ${vm}`));
    return until(`${vm} has an address`, async () => (await look()).ip);
  }
}
