/**
 * Network namespaces for tests: the host, an outside machine, and guests, which are namespaces too.
 *
 * outside (10.9.0.1/24, "Internet" 198.51.100.1) ──ext0/en0── host (10.9.0.2/24)
 *
 * All namespaces' names begin with the world's prefix; `close` kills every process in them and removes them.
 */
import { type ChildProcess, type ExecFileSyncOptions, execFileSync, spawn } from 'node:child_process';
import { accessSync, chmodSync, constants, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Without a version manager's shims, which take half a second of CPU time to start Python. */
const PATH = [...(process.env['PATH'] ?? '').split(':').filter((dir) => !dir.endsWith('/shims')), '/usr/sbin', '/sbin'].join(':');

/** Why tests with these needs cannot run here; null when they can. */
export function missing(...needs: ('root' | 'netns' | 'tun' | 'qemu' | 'cc')[]): string | null {
  for (const need of needs) {
    if (need === 'root' && process.getuid?.() !== 0) return 'needs root';
    if (need === 'tun') {
      try {
        accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
      } catch {
        return 'needs /dev/net/tun';
      }
    }
    if (need === 'netns') {
      try {
        execFileSync('unshare', ['-n', 'true'], { stdio: 'ignore' });
      } catch {
        return 'needs network namespaces';
      }
    }
    if (need === 'cc' && !existsSync('/usr/bin/cc')) return 'needs a C compiler';
    if (need === 'qemu' && !['/usr/bin/qemu-system-x86_64', '/usr/local/bin/qemu-system-x86_64'].some((p) => existsSync(p))) return 'needs qemu-system-x86_64';
  }
  return null;
}

export class Namespace {
  readonly name: string;
  readonly #children = new Set<ChildProcess>();

  constructor(name: string) {
    this.name = name;
    ip('netns', 'add', name);
    this.run('ip link set lo up');
  }

  /** Runs a shell line in the namespace and returns its standard output. Throws when it fails. */
  run(line: string, options: ExecFileSyncOptions = {}): string {
    return String(
      execFileSync('ip', ['netns', 'exec', this.name, 'sh', '-c', line], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, PATH },
        timeout: 120_000,
        ...options,
      }),
    );
  }

  /** As `run`, but returns null on failure. */
  attempt(line: string): string | null {
    try {
      return this.run(line);
    } catch {
      return null;
    }
  }

  /** As `attempt`, without blocking this process, which may serve the line's requests. */
  async ask(line: string): Promise<string | null> {
    const child = this.spawn(['sh', '-c', line]);
    let out = '';
    child.stdout?.on('data', (d: Buffer) => {
      out += d.toString();
    });
    const code = await new Promise<number | null>((resolve) => child.on('close', (c) => resolve(c)));
    return code === 0 ? out : null;
  }

  /** Starts a program that runs in the background until the world is closed. */
  spawn(argv: readonly string[], env: Record<string, string> = {}, stderr: 'inherit' | 'pipe' = 'inherit'): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.name, ...argv], { stdio: ['pipe', 'pipe', stderr], env: { ...process.env, PATH, ...env } });
    this.#children.add(child);
    child.on('exit', () => this.#children.delete(child));
    // EPIPE after the program exited; tests watch the exit
    child.stdin?.on('error', () => {});
    return child;
  }

  /** Whether one ping is answered within a second. Use it to expect no answer. */
  pings(address: string): boolean {
    return this.attempt(`ping -c1 -W1 -q ${address}`) !== null;
  }

  /** Waits until a ping is answered. Use it to expect an answer: a slow machine may miss a single one. */
  async reaches(address: string, what = `${this.name} reaches ${address}`): Promise<void> {
    await until(what, () => this.pings(address));
  }

  /** Of all programs. */
  pids(): number[] {
    return String(execFileSync('ip', ['netns', 'pids', this.name]))
      .split('\n')
      .filter(Boolean)
      .map(Number);
  }

  /** Kills all programs. */
  killAll(): void {
    for (const pid of this.pids()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // exited meanwhile
      }
    }
    for (const c of this.#children) c.kill('SIGKILL');
  }

  close(): void {
    this.killAll();
    ip('netns', 'del', this.name);
  }
}

function ip(...args: string[]): string {
  return String(execFileSync('ip', args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, PATH } }));
}

/** `ANKA_TEST_WAIT` shortens it (seconds), to find what a test that hangs waits for. */
const WAIT_LIMIT_MS = 1000 * Number(process.env['ANKA_TEST_WAIT'] ?? 900);

/**
 * Waits until `check` returns something truthy; fails with `what` after a limit that only a hang reaches. It checks
 * every 50 ms, and less often if a check takes longer than that, as the machine has other work to do.
 */
export async function until<T>(what: string, check: () => T | Promise<T>, limitMs = WAIT_LIMIT_MS): Promise<NonNullable<T>> {
  const end = Date.now() + limitMs;
  for (;;) {
    const start = Date.now();
    const value = await check();
    if (value) return value as NonNullable<T>;
    if (Date.now() > end) throw new Error(`timed out waiting: ${what}`);
    await sleep(Math.min(500, Math.max(50, Date.now() - start)));
  }
}

/** Pings all of these paths at once; returns those answered within a second, as `name to address`. */
export async function answered(...paths: readonly (readonly [Namespace, string])[]): Promise<string[]> {
  const all = await Promise.all(paths.map(async ([from, to]) => ((await from.ask(`ping -c1 -W1 -q ${to}`)) === null ? [] : [`${from.name} to ${to}`])));
  return all.flat();
}

/** Resident memory of a process (VmRSS) in bytes; 0 when the process has exited. */
export function memoryOf(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024;
}

export class World {
  readonly host: Namespace;
  readonly outside: Namespace;
  readonly dir: string;
  readonly prefix: string;
  /** A copy of /etc that engines of this world see as /etc; null: they see this machine's. */
  etc: string | null = null;
  readonly #guests: Namespace[] = [];
  readonly #resolv: string;

  /** `ANKA_TEST_WORLD` prefixes every name, so that two checkouts can be tested side by side. */
  constructor(suite: string) {
    const prefix = `${process.env['ANKA_TEST_WORLD'] ?? ''}${suite}`;
    this.prefix = prefix;
    for (const line of ip('netns', 'list').split('\n')) {
      const name = line.split(' ')[0];
      if (name?.startsWith(prefix)) ip('netns', 'del', name);
    }
    this.dir = mkdtempSync(join(tmpdir(), 'anka-world-'));
    // guests run as other users and must be able to enter
    chmodSync(this.dir, 0o755);
    // `ip netns exec` shows this file as /etc/resolv.conf inside the host
    this.#resolv = `/etc/netns/${prefix}host`;
    mkdirSync(this.#resolv, { recursive: true });
    writeFileSync(join(this.#resolv, 'resolv.conf'), 'nameserver 10.9.0.1\n');
    this.host = new Namespace(`${prefix}host`);
    this.outside = new Namespace(`${prefix}out`);
    ip('link', 'add', 'en0', 'netns', this.host.name, 'type', 'veth', 'peer', 'name', 'ext0', 'netns', this.outside.name);
    this.host.run('ip addr add 10.9.0.2/24 dev en0; ip link set en0 up; ip route add default via 10.9.0.1 2>/dev/null || true');
    this.outside.run('ip addr add 10.9.0.1/24 dev ext0; ip addr add 198.51.100.1/32 dev lo; ip link set ext0 up');
    this.host.run('ip route replace default via 10.9.0.1');
    // the outside has a route to the VMs' networks: isolation must not depend on a missing route
    this.outside.run('ip route add 192.168.0.0/16 via 10.9.0.2');
  }

  /** Gives engines that start from now on an /etc of their own, in which files can be replaced by links. Returns it. */
  ownEtc(): string {
    this.etc = join(this.dir, 'etc');
    execFileSync('cp', ['-a', '/etc', this.etc]);
    rmSync(join(this.etc, 'resolv.conf'), { force: true });
    writeFileSync(join(this.etc, 'resolv.conf'), readFileSync(join(this.#resolv, 'resolv.conf')));
    return this.etc;
  }

  /** Rewrites the host's resolv.conf in place, as NetworkManager and VPNs do; the namespace sees it by a bind mount. */
  setResolver(server: string): void {
    writeFileSync(join(this.#resolv, 'resolv.conf'), `nameserver ${server}\n`);
  }

  /** Replaces resolv.conf by a rename: programs that already run on the host keep the old file. */
  replaceResolver(server: string): void {
    const file = join(this.#resolv, 'resolv.conf');
    writeFileSync(`${file}.new`, `nameserver ${server}\n`);
    renameSync(`${file}.new`, file);
  }

  /** One more namespace, connected to nothing. */
  namespace(name: string): Namespace {
    const ns = new Namespace(`${this.prefix}${name}`);
    this.#guests.push(ns);
    return ns;
  }

  /** A guest: a namespace whose eth0 is the veth peer of `hostInterface`, which stands for the tap. */
  guest(name: string, hostInterface: string, mac: string): Namespace {
    const ns = this.namespace(name);
    ip('link', 'add', hostInterface, 'netns', this.host.name, 'type', 'veth', 'peer', 'name', 'eth0', 'address', mac, 'netns', ns.name);
    ns.run('ip link set eth0 up');
    return ns;
  }

  close(): void {
    for (const g of this.#guests) g.close();
    this.host.close();
    this.outside.close();
    rmSync(this.#resolv, { recursive: true, force: true });
    // a killed process may not have exited yet
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 10 });
  }
}
