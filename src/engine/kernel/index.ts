/**
 * The kernel engine: Linux bridges, taps and nftables. Packets never enter this program.
 *
 * Theory of operation: `apply` stores the desired state and brings the host to it, in this order:
 *
 *  1. interfaces, with MAC translation and VLAN tags (host-links.ts),
 *  2. kernel settings (network-sysctls.ts),
 *  3. DHCP, DNS and listeners, by the service process (service/),
 *  4. addresses that guests have set by themselves (addresses/),
 *  5. all rules as one nft transaction, connections that they would not let through are cut (rules/), and accepts in
 *     other programs' firewalls.
 *
 * The kernel notifies of changes (host-changes.ts). After those of our own interfaces, or of interfaces in use, the
 * first two steps are repeated; if an interface differs, all are. All are repeated after other programs' changes of
 * nftables (at most once a second for tables that are not ours), and at least every ten seconds. Each step compares
 * what is in force with what is desired, and repairs the difference (B90). Our own transactions of nftables are
 * recognized by their generations. Addresses are polled once a second.
 *
 * Limits: IPv6 does not leave the shared and the host network.
 */
import { closeSync } from 'node:fs';
import { join } from 'node:path';
import { openTap, reconnectTap } from '../../host/ffi/tap.ts';
import { userOf } from '../../host/process.ts';
import { readSysctl } from '../../host/sysctl.ts';
import { openVhost } from '../../host/vhost.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { Explanation } from '../../net/explain/explanation.ts';
import { explainKernel } from '../../net/explain/kernel-engine.ts';
import type { Packet } from '../../net/explain/packet.ts';
import type {
  Capture,
  CaptureSide,
  DesiredNic,
  DesiredState,
  DoctorFinding,
  Engine,
  EngineProblem,
  HelperHealth,
  NicBackend,
  NicStats,
  ObservedState,
} from '../engine.ts';
import { ReconcileLoop } from '../reconcile-loop.ts';
import { NicAddresses } from './addresses/nic-addresses.ts';
import { openCapture } from './capture.ts';
import { examineHost } from './doctor.ts';
import { gatherFacts } from './explain-facts.ts';
import { HostChanges } from './host-changes.ts';
import { HostLinks } from './host-links.ts';
import { tapName } from './names.ts';
import { applySysctls } from './network-sysctls.ts';
import { observeState, readStats } from './observe.ts';
import { PendingCheck } from './pending-check.ts';
import { ProblemList } from './problem-list.ts';
import { AppliedRules } from './rules/applied-rules.ts';
import { FirewallAllowances, removeFirewallAllowances } from './rules/firewalls.ts';
import { OwnTransactions } from './rules/own-transactions.ts';
import { ServiceClient } from './service/service-client.ts';
import { SysctlRecord } from './sysctl-record.ts';
import { validateState } from './validate.ts';

export interface KernelEngineOptions {
  runDir: string;
  stateDir: string;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
}

/** Between two reconciliations without a cue. */
const SAFETY_CHECK_MS = 10_000;
const CUE_DELAY_MS = 30;
const EMPTY: DesiredState = { networks: [], nics: [], dnsServers: [] };

class KernelEngine implements Engine {
  readonly name = 'kernel' as const;
  readonly #log: KernelEngineOptions['log'];
  /** To which anka writes. */
  readonly #directories: readonly string[];
  readonly #loop: ReconcileLoop;
  readonly #changes: HostChanges;
  readonly #links: HostLinks;
  readonly #sysctls: SysctlRecord;
  readonly #service: ServiceClient;
  readonly #addresses: NicAddresses;
  readonly #transactions = new OwnTransactions();
  readonly #rules = new AppliedRules(this.#transactions);
  readonly #firewalls = new FirewallAllowances(this.#transactions);
  #desired: DesiredState = EMPTY;
  #problems: EngineProblem[] = [];
  #reconciledAt = 0;
  /** What the next check is for. */
  readonly #pending = new PendingCheck();

  constructor({ runDir, stateDir, log }: KernelEngineOptions) {
    this.#log = log;
    this.#directories = [stateDir, runDir];
    this.#loop = new ReconcileLoop({
      title: 'kernel engine',
      log,
      reconcile: () => this.#check(),
      cueDelayMs: CUE_DELAY_MS,
      everySecond: [() => this.#loop.request(this.#pollAddresses), () => this.#checkSafety()],
    });
    this.#changes = new HostChanges({
      log,
      onLinks: () => {
        this.#pending.links = true;
        this.#loop.cue();
      },
      onRules: (change) => {
        this.#pending.addRules(change.generation);
        this.#loop.cue(change.isOnOurs ? CUE_DELAY_MS : this.#pending.foreignDelay(CUE_DELAY_MS));
      },
      onUnknown: () => this.#cueAll(),
    });
    this.#links = new HostLinks({ runDir, log });
    this.#addresses = new NicAddresses(runDir, log, this.#transactions, () => this.#loop.request(this.#updateMoved));
    this.#sysctls = new SysctlRecord(join(runDir, 'sysctl.json'));
    this.#service = new ServiceClient({
      runDir,
      stateDir,
      log,
      onChanged: () => this.#loop.request(this.#refreshLeases),
      onExit: () => {
        if (!this.#loop.active) return;
        log.warn({}, 'the network service exited: starting it again');
        this.#cueAll();
      },
    });
  }

  validate(desired: DesiredState): Promise<EngineProblem[]> {
    return validateState(desired, (nic, links) => this.#links.bridgeProblem(nic, links));
  }

  apply(desired: DesiredState): Promise<EngineProblem[]> {
    return this.#loop.supersede(async () => {
      this.#addresses.follow(this.#desired, desired);
      this.#desired = desired;
      this.#loop.start();
      this.#changes.start();
      this.#pending.take();
      await this.#reconcile();
      return this.#problems;
    });
  }

  /** A whole check is due. */
  #cueAll(): void {
    this.#pending.all = true;
    this.#loop.cue();
  }

  /** Looks for what other programs have changed. A command that waits goes first, and reconciles itself. */
  async #check(): Promise<void> {
    const due = this.#pending.take();
    // what our own transactions have changed is known
    const byOthers = due.generations.some((g) => !this.#transactions.includes(g));
    if (byOthers) this.#pending.checksForeign();
    if (due.all || byOthers) await this.#reconcile(true);
    else if (due.links) await this.#checkLinks();
  }

  /** Interfaces alone: most often nothing differs, as after changes of ours. */
  async #checkLinks(): Promise<void> {
    const list = new ProblemList(this.#log);
    const hasChanged = await this.#links.apply(this.#desired, list);
    await list.attempt('host', () => applySysctls(this.#desired, this.#sysctls));
    if (hasChanged || list.problems.length + this.#problems.length > 0) await this.#reconcile(true);
  }

  /** Brings the host to the desired state. `yields`: ends early for a command that waits, and is cued again. */
  async #reconcile(yields = false): Promise<void> {
    this.#reconciledAt = monotonicMs();
    const desired = this.#desired;
    const list = new ProblemList(this.#log);
    const steps = this.#steps(desired, list);
    for (const step of steps) {
      if (yields && this.#loop.commandWaits) return this.#cueAll();
      await step();
    }
    this.#problems = list.problems;
  }

  #steps(desired: DesiredState, list: ProblemList): (() => Promise<unknown>)[] {
    return [
      async () => {
        await this.#links.apply(desired, list);
        this.#changes.watch(this.#links.watched(desired));
      },
      () => list.attempt('host', () => applySysctls(desired, this.#sysctls)),
      () => {
        this.#addresses.update(desired, this.#service.status);
        return list.attempt('service', () => this.#service.configure(desired, this.#addresses.selfSetOf));
      },
      () => this.#pollGuests(),
      () => list.attempt('host', () => this.#applyRules()),
      () => list.attempt('host', () => this.#firewalls.apply(this.#links.bridges(desired))),
    ];
  }

  async #applyRules(): Promise<void> {
    const { nics } = this.#desired;
    await this.#rules.apply(this.#desired, {
      nics: nics.map((nic) => ({ nic, ...this.#addresses.ruledAddressesOf(nic) })),
      segments: this.#links.segments(nics),
      taps: this.#links.taps,
      assignedElsewhere: this.#addresses.assignedElsewhere(),
      beforeReplace: () => this.#addresses.pollBridged(nics),
      keepsHeard: this.#addresses.keepsHeard,
      hostAddresses: this.#links.hostAddresses,
      addressesKnown: this.#service.status !== null,
    });
    this.#addresses.announceMoved();
  }

  /** True when an address that a guest has set changed. */
  #pollGuests(): Promise<boolean> {
    return this.#addresses.pollGuests(this.#desired, this.#service.status, this.#rules.present);
  }

  /** The service reported a change: leases may be new. */
  readonly #refreshLeases = async (): Promise<void> => {
    if (!this.#loop.active) return;
    const leases = await this.#service.refresh();
    if (leases === 'unavailable') return; // rules keep the known addresses
    const moved = await this.#pollGuests();
    if (moved || leases === 'changed') await this.#updateAddresses(moved);
  };

  readonly #pollAddresses = async (): Promise<void> => {
    if (!this.#loop.active || this.#desired.nics.length === 0) return;
    const bridged = this.#addresses.pollBridged(this.#desired.nics);
    if (await this.#pollGuests()) await this.#updateAddresses(true);
    else if (bridged) this.#loop.notify();
  };

  readonly #updateMoved = (): Promise<void> => this.#updateAddresses(true);

  /** Brings service and rules to the addresses of now. `moved`: a guest has set another one. */
  async #updateAddresses(moved: boolean): Promise<void> {
    if (!this.#loop.active) return;
    if (moved) await this.#service.configure(this.#desired, this.#addresses.selfSetOf);
    await this.#addresses.forgetSilent();
    await this.#applyRules();
    this.#loop.notify();
  }

  #checkSafety(): void {
    if (monotonicMs() - this.#reconciledAt >= SAFETY_CHECK_MS || this.#links.hasDrifted()) this.#cueAll();
  }

  observe(): Promise<ObservedState> {
    return observeState({
      desired: this.#desired,
      problems: this.#problems,
      status: this.#service.status,
      addresses: this.#addresses,
      limitOf: (id) => this.#links.attachments.get(id)?.limit ?? '',
    });
  }

  stats(): Promise<NicStats[]> {
    return readStats(this.#desired.nics);
  }

  #nic(id: string): DesiredNic {
    const nic = this.#desired.nics.find((n) => n.id === id);
    if (!nic) throw unknownNic(id);
    return nic;
  }

  async openNic(id: string): Promise<NicBackend> {
    const nic = this.#nic(id);
    const fds = openTap(tapName(id), nic.queues);
    const vhostFds = nic.vhost ? this.#openVhost(nic.queues) : [];
    let open = true;
    return {
      kind: 'tap',
      fds,
      vhostFds,
      release() {
        if (open) for (const fd of [...fds, ...vhostFds]) closeSync(fd);
        open = false;
      },
    };
  }

  async reconnectNic(id: string, pid: number, headerBytes: number): Promise<void> {
    const nic = this.#nic(id);
    if (userOf(pid) !== nic.ownerUid) throw new AnkaError('network', `process ${pid} is not the QEMU of VM ${id}`);
    reconnectTap(pid, tapName(id), nic.queues, headerBytes);
  }

  /** None where it can no longer be opened: QEMU can move the frames of every card. */
  #openVhost(count: number): number[] {
    try {
      return openVhost(count);
    } catch (cause) {
      this.#log.warn({ error: (cause as Error).message }, 'vhost-net cannot be opened: QEMU moves the frames');
      return [];
    }
  }

  async capture(id: string, side: CaptureSide, filter: string): Promise<Capture> {
    const nic = this.#nic(id);
    return openCapture(nic, side, filter);
  }

  async explain(id: string, packet: Packet): Promise<Explanation> {
    const facts = await gatherFacts(this.#desired, this.#links.attachments, (await this.observe()).nics);
    const card = facts.cards.find((c) => c.id === id);
    if (!card) throw unknownNic(id);
    return explainKernel(facts, card, packet);
  }

  async forgetNic(id: string): Promise<void> {
    this.#addresses.forget(id);
    await this.#loop.enqueue(() => this.#rules.forgetNic(id));
    await this.#service.forget(id);
  }

  watch(onChange: () => void): () => void {
    return this.#loop.watch(onChange);
  }

  async doctor(): Promise<DoctorFinding[]> {
    const forwarders = this.#desired.networks.length === 0 ? [] : await this.#service.dnsForwarders();
    return examineHost(this.#desired, (await this.observe()).nics, forwarders, this.#directories);
  }

  helpers(): HelperHealth[] {
    return [this.#service.health];
  }

  reset(): Promise<string[]> {
    return this.#loop.enqueue(async () => {
      this.#desired = EMPTY;
      this.#loop.stop();
      this.#changes.stop();
      const pid = await this.#service.stop();
      const removed = pid === null ? [] : [`network service (pid ${pid})`];
      removed.push(...(await removeFirewallAllowances()));
      removed.push(...(await this.#links.removeUplinks()));
      removed.push(...(await this.#rules.remove()));
      removed.push(...(await this.#links.removeInterfaces()));
      await this.#rules.cutConnections();
      await this.#sysctls.restore();
      return removed;
    });
  }

  async close(): Promise<void> {
    this.#changes.stop();
    await this.#loop.close();
    this.#service.close();
  }
}

function unknownNic(id: string): AnkaError {
  return new AnkaError('network', `the engine knows no network card of VM ${id}`);
}

/** Creates the engine. Throws `noRights` or `network` where the host cannot run it. */
export async function createKernelEngine(options: KernelEngineOptions): Promise<Engine> {
  if (process.getuid?.() !== 0) throw new AnkaError('noRights', 'the kernel engine needs root; run anka as root, or use the user engine');
  if ((await readSysctl('net/ipv4/ip_forward')) === null) throw new AnkaError('network', 'this kernel has no IPv4');
  return new KernelEngine(options);
}
