/**
 * The user engine: the same networks for an ordinary user, without privileges.
 *
 * Theory of operation: one network process per network (process/network-main.ts) holds switch, gateway and host
 * sockets; this is the daemon's side. `apply` gives each process its whole configuration. A NIC that moves is detached
 * from one network before it is attached to the other, as its QEMU accepts one connection at a time. A process starts
 * when the first NIC needs it and outlives the daemon, which finds it again by its control socket. One that exits or
 * hangs is started again: QEMU listens, so its NICs are attached again within a fraction of a second (B90). It is
 * stopped when its network is not needed any more.
 *
 * Limits: flows end with the network process; type bridge is refused; the host has no interface on these networks
 * (`anka ssh` and `anka nc` connect to guests).
 */
import { dirname } from 'node:path';
import type { Route } from '../../host/links.ts';
import { openFilesLimit } from '../../host/process.ts';
import { removeTree } from '../../host/untrusted-files.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { Explanation } from '../../net/explain/explanation.ts';
import type { Packet } from '../../net/explain/packet.ts';
import { explainUser } from '../../net/explain/user-engine.ts';
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
  HelperHealth,
  NicBackend,
  NicStats,
  ObservedNetwork,
  ObservedNic,
  ObservedState,
} from '../engine.ts';
import { isRoot, PROCESS_GID, PROCESS_UIDS } from '../process/users.ts';
import { ReconcileLoop } from '../reconcile-loop.ts';
import { openCapture } from './capture.ts';
import { examineHost } from './doctor.ts';
import { gatherFacts } from './explain-facts.ts';
import { hostRoutes } from './host-routes.ts';
import { NetworkProcess } from './network-process.ts';
import { NicSockets } from './nic-sockets.ts';
import type { NetworkConfig, NetworkStatus } from './process/config.ts';

interface UserEngineOptions {
  runDir: string;
  stateDir: string;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
}

/** A process that ran for less is started again only after so long; the same after a failure. */
const RESTART_MS = 1000;
const EMPTY: DesiredState = { networks: [], nics: [], dnsServers: [] };
const NAMES = ['shared', 'host'] as const;
/** Interfaces of a kernel engine on this host; they use the same subnets on purpose. */
const KERNEL_BRIDGES = ['anka-shared', 'anka-host'];
const BRIDGE_REFUSAL = "bridge type needs the kernel engine: run anka as root ('sudo anka …'), with 'anka config engine auto'";

type NetworkName = (typeof NAMES)[number];

class UserEngine implements Engine {
  readonly name = 'user' as const;
  #options: UserEngineOptions;
  #desired: DesiredState = EMPTY;
  #processes: Map<NetworkName, NetworkProcess>;
  #problems: EngineProblem[] = [];
  #sockets: NicSockets;
  #loop: ReconcileLoop;

  constructor(options: UserEngineOptions) {
    this.#options = options;
    this.#sockets = new NicSockets(options.runDir);
    this.#loop = new ReconcileLoop({
      title: 'user engine',
      log: options.log,
      reconcile: () => this.#reconcile(),
      cueDelayMs: RESTART_MS,
    });
    this.#processes = new Map(NAMES.map((name) => [name, this.#createProcess(name)]));
  }

  #createProcess(name: NetworkName): NetworkProcess {
    const { log, runDir, stateDir } = this.#options;
    return new NetworkProcess({
      name,
      runDir,
      stateDir,
      log,
      onChanged: () => this.#loop.notify(),
      onExit: (ranMs) => {
        if (!this.#loop.active || !this.#desired.networks.some((n) => n.name === name)) return;
        log.warn({ network: name }, 'the network process exited: starting it again');
        this.#loop.cue(ranMs < RESTART_MS ? RESTART_MS : 0);
      },
    });
  }

  async validate(desired: DesiredState): Promise<EngineProblem[]> {
    return [...subnetProblems(desired.networks, await foreignRoutes()), ...bridgeProblems(desired)];
  }

  apply(desired: DesiredState): Promise<EngineProblem[]> {
    return this.#loop.supersede(async () => {
      this.#desired = desired;
      this.#loop.start();
      await this.#reconcile();
      return this.#problems;
    });
  }

  /** Brings the processes to the desired state. */
  async #reconcile(): Promise<void> {
    const desired = this.#desired;
    const problems = bridgeProblems(desired);
    const attempt = async (name: NetworkName, work: (p: NetworkProcess) => Promise<unknown>): Promise<void> => {
      try {
        await work(this.#process(name));
      } catch (cause) {
        const message = (cause as Error).message;
        problems.push({ object: `network:${name}`, message });
        for (const n of desired.nics) if (n.type === name) problems.push({ object: `nic:${n.id}`, message });
        this.#options.log.warn({ network: name, error: message }, 'not applied');
        this.#loop.cue();
      }
    };
    for (const name of NAMES) if (!desired.networks.some((n) => n.name === name)) await attempt(name, (p) => p.stop());
    // NICs are detached before they are attached elsewhere
    for (const n of desired.networks) await attempt(n.name, (p) => p.detachOthers(this.#config(n)));
    for (const nic of desired.nics) await this.#sockets.grant(nic).catch((cause: Error) => problems.push({ object: `nic:${nic.id}`, message: cause.message }));
    for (const n of desired.networks) await attempt(n.name, (p) => p.configure(this.#config(n)));
    this.#problems = problems;
  }

  #config(network: DesiredNetwork): NetworkConfig {
    const nics = this.#desired.nics.filter((n) => n.type === network.name).map((n) => ({ ...n, socket: this.#sockets.path(n.id) }));
    const otherSubnets = this.#desired.networks.filter((n) => n.name !== network.name).map((n) => n.subnet);
    const { dnsServers, dnsHosts = true, metadata = false } = this.#desired;
    return { network, dnsServers, dnsHosts, dnsForward: network.name === 'shared', nics, otherSubnets, metadata };
  }

  #process(name: NetworkName): NetworkProcess {
    return this.#processes.get(name) as NetworkProcess;
  }

  async observe(): Promise<ObservedState> {
    const statuses = new Map<string, NetworkStatus | null>();
    for (const n of this.#desired.networks) statuses.set(n.name, await this.#process(n.name).status());
    return {
      problems: this.#problems,
      networks: this.#desired.networks.map((n) => this.#observeNetwork(n, statuses.get(n.name) ?? null)),
      nics: this.#desired.nics.map((n) => this.#observeNic(n, statuses.get(n.type) ?? null)),
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
        addresses: [],
        leaseExpires: null,
        lastDhcp: null,
        backend: this.#sockets.path(nic.id),
        healthy: nic.type === 'disconnected',
        rules: nic.rules.map((r) => ({ name: r.name, active: false, reason })),
      }
    );
  }

  async stats(): Promise<NicStats[]> {
    return (await Promise.all([...this.#processes.values()].map((p) => p.stats()))).flat();
  }

  async openNic(id: string): Promise<NicBackend> {
    return this.#sockets.open(this.#nic(id));
  }

  #nic(id: string): DesiredNic {
    const nic = this.#desired.nics.find((n) => n.id === id);
    if (!nic) throw new AnkaError('network', `the engine knows no card of VM ${id}`);
    return nic;
  }

  streamSocket(id: string): string | null {
    return this.#processes.get(this.#nic(id).type as NetworkName)?.streamSocket ?? null;
  }

  async capture(id: string, side: CaptureSide, filter: string): Promise<Capture> {
    const nic = this.#nic(id);
    const path = this.streamSocket(id);
    if (path === null) throw new AnkaError('network', `${nic.vmName} is ${nic.type}: there is nothing to capture`);
    return openCapture(path, nic, side, filter);
  }

  async explain(id: string, packet: Packet): Promise<Explanation> {
    const { type } = this.#nic(id);
    const { nics } = await this.observe();
    const known = await this.#processes.get(type as NetworkName)?.facts();
    const facts = await gatherFacts(this.#desired, nics, { ...(known ?? { primary: null, mayPing: false }), uid: uidOf(type as NetworkName) });
    return explainUser(facts, facts.cards.find((c) => c.id === id) as (typeof facts.cards)[number], packet);
  }

  async forgetNic(id: string): Promise<void> {
    for (const p of this.#processes.values()) await p.forget(id);
    await this.#sockets.remove(id);
  }

  watch(onChange: () => void): () => void {
    return this.#loop.watch(onChange);
  }

  async doctor(): Promise<DoctorFinding[]> {
    const shared = this.#process('shared');
    const status = await shared.status();
    const running = status?.observed.name ? status : null;
    const facts = running ? await shared.facts().catch(() => null) : null;
    const pinger = isRoot()
      ? { groups: [PROCESS_GID], whose: `the group of root's network processes (${PROCESS_GID})` }
      : { groups: [process.getgid?.() ?? 0, ...(process.getgroups?.() ?? [])], whose: 'your groups' };
    return examineHost(this.#desired, {
      foreignRoutes: await foreignRoutes(),
      forwarders: running ? [{ title: 'the shared network', servers: running.upstreams }] : [],
      pinger: { ...pinger, allowed: facts?.mayPing ?? null },
      uid: uidOf('shared'),
      openFiles: openFilesLimit(running?.pid),
      directories: [this.#options.stateDir, this.#options.runDir],
    });
  }

  helpers(): HelperHealth[] {
    return [...this.#processes.values()].map((p) => p.health);
  }

  reset(): Promise<string[]> {
    return this.#loop.enqueue(async () => {
      this.#loop.stop();
      this.#desired = EMPTY;
      this.#problems = [];
      const removed: string[] = [];
      for (const [name, p] of this.#processes) {
        const pid = await p.stop();
        if (pid !== null) removed.push(`${name} network's process (pid ${pid})`);
        await removeTree(dirname(p.socket));
      }
      for (const card of await this.#sockets.removeAll()) removed.push(`socket of card ${card}`);
      return removed;
    });
  }

  async close(): Promise<void> {
    await this.#loop.close();
    for (const p of this.#processes.values()) p.close();
  }
}

/** User id of a network's process. */
const uidOf = (name: NetworkName): number => (isRoot() ? PROCESS_UIDS[name] : (process.getuid?.() ?? 0));

/** The host's routes without those of anka. */
async function foreignRoutes(): Promise<Route[]> {
  return (await hostRoutes()).filter((r) => !KERNEL_BRIDGES.includes(r.dev));
}

function bridgeProblems(desired: DesiredState): EngineProblem[] {
  return desired.nics.filter((n) => n.type === 'bridge').map((n) => ({ object: `nic:${n.id}`, message: BRIDGE_REFUSAL }));
}

/** Creates the engine; every host can run it. */
export function createUserEngine(options: UserEngineOptions): Engine {
  return new UserEngine(options);
}
