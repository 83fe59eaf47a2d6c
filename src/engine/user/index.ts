/**
 * The user engine: the same networks without any right that an ordinary user has not got.
 *
 * Theory of operation: one network process per network (network-main.ts) holds switch, gateway and host sockets; this
 * is the daemon's side. `apply` gives each process the whole of its configuration. A card that moves is taken out of
 * the one network before it is put into the other, as its QEMU listens for one connection at a time. A process is
 * started when a card needs it, goes on when the daemon is gone, is found again by its control socket, and is started
 * again when it dies or stands still: QEMU listens, so its cables are in again within a fraction of a second (B90). It
 * is ended with the last running VM.
 *
 * Limits: flows end with the network process; bridge type is refused; the host has no interface on these networks
 * (`anka ssh` and `anka nc` lead in).
 */
import { readFileSync } from 'node:fs';
import { chmod, chown, mkdir, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openFilesLimit } from '../../host/process.ts';
import { RESOLVER_FOLDERS } from '../../host/resolvers.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { Explanation, Packet } from '../../net/explain/packet.ts';
import { explainUser } from '../../net/explain/user.ts';
import { subnetProblems } from '../doctor/subnet-clash.ts';
import type {
  Capture,
  CaptureSide,
  DesiredNetwork,
  DesiredNic,
  DesiredState,
  DoctorFinding,
  Engine,
  EngineProblem,
  NicBackend,
  NicStats,
  ObservedNetwork,
  ObservedNic,
  ObservedState,
} from '../engine.ts';
import { ProcessClient } from '../process/client.ts';
import { loadLeases, saveLeases } from '../process/lease-file.ts';
import { asUser, isRoot, PROCESS_GID, PROCESS_UIDS } from '../process/users.ts';
import { openCapture } from './capture.ts';
import { examineHost } from './doctor.ts';
import { gatherFacts } from './explain-facts.ts';
import { hostRoutes } from './host-routes.ts';
import type { NetworkConfig, NetworkMethods, NetworkStatus } from './process/config.ts';

interface UserEngineOptions {
  runDir: string;
  stateDir: string;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
}

/** How often it is seen whether the processes answer, and how long one may take before it counts as standing still. */
const PULSE_MS = 5000;
const STANDSTILL_MS = 30_000;
/** Between two starts of a process that dies at once. */
const RESTART_MS = 1000;
const EMPTY: DesiredState = { networks: [], nics: [], dnsServers: [] };
const NAMES = ['shared', 'host'] as const;
/** Interfaces of a kernel engine on this host, whose subnets are the same by intent. */
const KERNEL_BRIDGES = ['anka-shared', 'anka-host'];
const BRIDGE_REFUSAL = "bridge type needs the kernel engine: run anka as root ('sudo anka …'), with 'anka config engine auto'";

type Name = (typeof NAMES)[number];

/** One network's process as we know it. */
interface Attached {
  client: ProcessClient<NetworkMethods>;
  leases: string;
  /** What it was last configured with; empty when that is not known. */
  config: string;
  pid: number | null;
  started: number;
}

class UserEngine implements Engine {
  readonly name = 'user' as const;
  #options: UserEngineOptions;
  #desired: DesiredState = EMPTY;
  #hasDesired = false;
  #networks: Map<Name, Attached>;
  #problems: EngineProblem[] = [];
  #watchers = new Set<() => void>();
  #queue: Promise<unknown> = Promise.resolve();
  #again: NodeJS.Timeout | null = null;
  #pulse: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(options: UserEngineOptions) {
    this.#options = options;
    this.#networks = new Map(NAMES.map((name) => [name, this.#attach(name)]));
  }

  #attach(name: Name): Attached {
    const { log } = this.#options;
    const { socket, leases, logFile, more } = this.#place(name);
    const attached: Attached = {
      leases,
      config: '',
      pid: null,
      started: 0,
      client: new ProcessClient<NetworkMethods>({
        title: `the ${name} network's process`,
        program: new URL('./process/network-main.ts', import.meta.url),
        socket,
        leases,
        log: logFile,
        arguments: more,
        fence: { read: RESOLVER_FOLDERS },
        onChanged: () => this.#tell(),
        onGone: () => {
          attached.config = '';
          attached.pid = null;
          if (this.#closed || !this.#hasDesired || !this.#desired.networks.some((n) => n.name === name)) return;
          log.warn({ network: name }, 'the network process is gone: starting it again');
          this.#soon(Date.now() - attached.started < RESTART_MS ? RESTART_MS : 0);
        },
      }),
    };
    return attached;
  }

  /**
   * Where a process's files are: in folders of its own, as it can open no others. Root's belong to another user
   * (docs/decisions/0012).
   */
  #place(name: Name): { socket: string; leases: string; logFile: string; more: string[] } {
    const { runDir, stateDir } = this.#options;
    const [run, state] = [join(runDir, `net-${name}`), join(stateDir, `net-${name}`)];
    return { socket: join(run, 'control.sock'), leases: join(state, 'leases.json'), logFile: join(state, 'log'), more: asUser(PROCESS_UIDS[name]) };
  }

  async validate(desired: DesiredState): Promise<EngineProblem[]> {
    const foreign = (await hostRoutes()).filter((r) => !KERNEL_BRIDGES.includes(r.dev));
    return [...subnetProblems(desired.networks, foreign), ...bridgeProblems(desired)];
  }

  apply(desired: DesiredState): Promise<EngineProblem[]> {
    return this.#enqueue(async () => {
      this.#desired = desired;
      this.#hasDesired = true;
      await this.#reconcile();
      this.#pulse ??= setInterval(() => void this.#feelPulse(), PULSE_MS).unref();
      return this.#problems;
    });
  }

  /** Brings the processes to the desired state. */
  async #reconcile(): Promise<void> {
    const desired = this.#desired;
    const problems = bridgeProblems(desired);
    const attempt = async (name: Name, work: () => Promise<unknown>): Promise<void> => {
      try {
        await work();
      } catch (cause) {
        const message = (cause as Error).message;
        problems.push({ object: `network:${name}`, message });
        for (const n of desired.nics) if (n.type === name) problems.push({ object: `nic:${n.id}`, message });
        this.#options.log.warn({ network: name, error: message }, 'not applied');
        this.#soon(RESTART_MS);
      }
    };
    for (const [name, a] of this.#networks) if (!desired.networks.some((n) => n.name === name)) await attempt(name, () => this.#end(a));
    // cables are pulled before they are plugged in elsewhere
    for (const n of desired.networks) await attempt(n.name, () => this.#unplug(n));
    for (const n of desired.networks) await attempt(n.name, () => this.#configure(n));
    this.#problems = problems;
  }

  #config(network: DesiredNetwork): NetworkConfig {
    const nics = this.#desired.nics.filter((n) => n.type === network.name).map((n) => ({ ...n, socket: this.#nicSocket(n.id) }));
    const otherSubnets = this.#desired.networks.filter((n) => n.name !== network.name).map((n) => n.subnet);
    return { network, dnsServers: this.#desired.dnsServers, dnsForward: network.name === 'shared', nics, otherSubnets };
  }

  /** Takes the cards that have left out of a network that runs. */
  async #unplug(network: DesiredNetwork): Promise<void> {
    const a = this.#networks.get(network.name) as Attached;
    const status = await a.client.callIfRunning('status', {});
    if (!status) return;
    const config = this.#config(network);
    const present = new Set(status.nics.map((n) => n.id));
    if (status.nics.every((n) => config.nics.some((w) => w.id === n.id))) return;
    await a.client.call('configure', { ...config, nics: config.nics.filter((n) => present.has(n.id)) });
    a.config = '';
  }

  async #configure(network: DesiredNetwork): Promise<void> {
    const a = this.#networks.get(network.name) as Attached;
    const config = this.#config(network);
    const text = JSON.stringify(config);
    if (a.config === text) return;
    if (config.nics.length === 0 && (await a.client.callIfRunning('status', {})) === null) return;
    if (a.pid === null) a.started = Date.now();
    a.pid = (await a.client.call('configure', config)).pid;
    a.config = text;
  }

  /** Ends a process, if it runs, and waits until it is gone. Its pid, or null. */
  async #end(a: Attached): Promise<number | null> {
    const status = await a.client.callIfRunning('status', {}).catch(() => null);
    if (!status) return null;
    a.config = '';
    await a.client.callIfRunning('stop', {}).catch(() => null);
    while (isRunning(status.pid)) await sleep(20);
    return status.pid;
  }

  async observe(): Promise<ObservedState> {
    const seen = new Map<Name, NetworkStatus | null>();
    for (const n of this.#desired.networks)
      seen.set(n.name, await (this.#networks.get(n.name) as Attached).client.callIfRunning('status', {}).catch(() => null));
    return {
      problems: this.#problems,
      networks: this.#desired.networks.map((n) => this.#observeNetwork(n, seen.get(n.name) ?? null)),
      nics: this.#desired.nics.map((n) => this.#observeNic(n, seen.get(n.type as Name) ?? null)),
    };
  }

  #observeNetwork(network: DesiredNetwork, status: NetworkStatus | null): ObservedNetwork {
    const problem = this.#problems.find((p) => p.object === `network:${network.name}`);
    const needed = this.#desired.nics.some((n) => n.type === network.name);
    if (!status) {
      const message = problem?.message ?? (needed ? "the network's process does not answer" : '');
      return { name: network.name, interface: null, healthy: !needed, leases: 0, poolSize: 2 ** (32 - network.subnet.prefix) - 3, message };
    }
    return { ...status.observed, healthy: status.observed.healthy && !problem, message: problem?.message ?? status.observed.message };
  }

  #observeNic(nic: DesiredNic, status: NetworkStatus | null): ObservedNic {
    const served = nic.type === 'shared' || nic.type === 'host';
    const reason = served ? "the network's process does not answer" : `port forwarding has no use on type ${nic.type}`;
    return (
      status?.nics.find((n) => n.id === nic.id) ?? {
        id: nic.id,
        ip: null,
        source: 'none',
        leaseExpires: null,
        lastDhcp: null,
        backend: this.#nicSocket(nic.id),
        healthy: nic.type === 'disconnected',
        drops: {},
        rules: nic.rules.map((r) => ({ name: r.name, active: false, reason })),
      }
    );
  }

  async stats(): Promise<NicStats[]> {
    const all = await Promise.all([...this.#networks.values()].map((a) => a.client.callIfRunning('stats', {}).catch(() => null)));
    return all.flatMap((s) => s ?? []);
  }

  #nicSocket(id: string): string {
    return join(this.#options.runDir, 'nic', id.slice(0, 8), 'qemu.sock');
  }

  async openNic(id: string): Promise<NicBackend> {
    const nic = this.#nic(id);
    const path = this.#nicSocket(id);
    await mkdir(join(this.#options.runDir, 'nic'), { recursive: true, mode: 0o711 });
    const dir = join(path, '..');
    await mkdir(dir, { recursive: true, mode: 0o700 });
    if (isRoot()) {
      // the socket that QEMU makes here belongs to the group of the network processes
      await chown(dir, nic.ownerUid, PROCESS_GID);
      await chmod(dir, 0o2710);
    }
    return { kind: 'stream', path, release() {} };
  }

  #nic(id: string): DesiredNic {
    const nic = this.#desired.nics.find((n) => n.id === id);
    if (!nic) throw new AnkaError('network', `the engine knows no card of VM ${id}`);
    return nic;
  }

  streamSocket(id: string): string | null {
    const a = this.#networks.get(this.#nic(id).type as Name);
    return a ? `${a.client.socket}.dial` : null;
  }

  async capture(id: string, side: CaptureSide, filter: string): Promise<Capture> {
    const nic = this.#nic(id);
    const path = this.streamSocket(id);
    if (path === null) throw new AnkaError('network', `${nic.vmName} is ${nic.type}: there is nothing to capture`);
    return openCapture(path, nic, side, filter);
  }

  async explain(id: string, packet: Packet): Promise<Explanation> {
    const { type } = this.#nic(id);
    const addresses = new Map((await this.observe()).nics.map((n) => [n.id, n.ip]));
    const process = await this.#networks.get(type as Name)?.client.callIfRunning('facts', {});
    const facts = await gatherFacts(this.#desired, (x) => addresses.get(x) ?? null, process ?? { primary: null, mayPing: false });
    return explainUser(facts, facts.cards.find((c) => c.id === id) as (typeof facts.cards)[number], packet);
  }

  async forgetNic(id: string): Promise<void> {
    for (const [network, a] of this.#networks) {
      if ((await a.client.callIfRunning('forget', { id })) !== null) continue;
      const saved = loadLeases(a.leases);
      if (!Object.values(saved).some((l) => l.some((x) => x.id === id))) continue;
      const rest = Object.fromEntries(Object.entries(saved).map(([name, l]) => [name, l.filter((x) => x.id !== id)]));
      saveLeases(a.leases, rest, isRoot() ? { uid: PROCESS_UIDS[network], gid: PROCESS_GID } : undefined);
    }
    await rm(join(this.#nicSocket(id), '..'), { recursive: true, force: true });
  }

  watch(onChange: () => void): () => void {
    this.#watchers.add(onChange);
    return () => this.#watchers.delete(onChange);
  }

  async doctor(): Promise<DoctorFinding[]> {
    const client = this.#networks.get('shared')?.client;
    const shared = await client?.callIfRunning('status', {}).catch(() => null);
    const runs = shared?.observed.name ? shared : null;
    const facts = runs ? await client?.callIfRunning('facts', {}).catch(() => null) : null;
    const clashes = (await this.validate(this.#desired)).filter((p) => p.object.startsWith('network:'));
    const pinger = isRoot()
      ? { groups: [PROCESS_GID], whose: `the group of root's network processes (${PROCESS_GID})` }
      : { groups: [process.getgid?.() ?? 0, ...(process.getgroups?.() ?? [])], whose: 'your groups' };
    const askers = runs ? [{ title: 'the shared network', pid: runs.pid, servers: runs.upstreams }] : [];
    return examineHost(this.#desired, clashes, askers, { ...pinger, allowed: facts?.mayPing ?? null }, openFilesLimit(runs?.pid));
  }

  reset(): Promise<string[]> {
    return this.#enqueue(async () => {
      this.#desired = EMPTY;
      this.#hasDesired = false;
      this.#problems = [];
      const removed: string[] = [];
      for (const [name, a] of this.#networks) {
        const pid = await this.#end(a);
        if (pid !== null) removed.push(`${name} network's process (pid ${pid})`);
        await rm(dirname(a.client.socket), { recursive: true, force: true });
      }
      const dir = join(this.#options.runDir, 'nic');
      for (const nic of await readdir(dir).catch(() => [])) {
        await rm(join(dir, nic), { recursive: true, force: true });
        removed.push(`socket of card ${nic}`);
      }
      await rm(dir, { recursive: true, force: true });
      return removed;
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#pulse) clearInterval(this.#pulse);
    if (this.#again) clearTimeout(this.#again);
    await this.#queue;
    for (const a of this.#networks.values()) a.client.close();
  }

  /** One thing at a time. */
  #enqueue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch((cause: Error) => this.#options.log.warn({ error: cause.message }, 'user engine'));
    return result;
  }

  #tell(): void {
    for (const w of this.#watchers) w();
  }

  #soon(delay: number): void {
    if (this.#closed) return;
    this.#again ??= setTimeout(() => {
      this.#again = null;
      void this.#enqueue(async () => {
        if (this.#closed || !this.#hasDesired) return;
        await this.#reconcile();
        this.#tell();
      });
    }, delay);
  }

  /** Ends a process that does not answer; its end is noticed, and mended. */
  async #feelPulse(): Promise<void> {
    for (const a of this.#networks.values()) {
      const { pid } = a;
      if (pid === null) continue;
      const answers = await Promise.race([a.client.callIfRunning('status', {}).catch(() => null), sleep(STANDSTILL_MS, false, { ref: false })]);
      if (answers !== false || a.pid !== pid) continue;
      this.#options.log.warn({ pid }, 'the network process stands still: ending it');
      process.kill(pid, 'SIGKILL');
    }
  }
}

/** True while the process has not ended; one that only waits to be reaped has. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false; // no such process
  }
  if (process.platform !== 'linux') return true;
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false; // it has ended just now
  }
}

function bridgeProblems(desired: DesiredState): EngineProblem[] {
  return desired.nics.filter((n) => n.type === 'bridge').map((n) => ({ object: `nic:${n.id}`, message: BRIDGE_REFUSAL }));
}

/** Makes the engine; it can run everywhere. */
export function createUserEngine(options: UserEngineOptions): Engine {
  return new UserEngine(options);
}
