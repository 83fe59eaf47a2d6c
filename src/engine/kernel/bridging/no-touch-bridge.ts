/**
 * The no-touch bridge of one interface: connects a segment to it without putting it into a bridge (B16).
 *
 * Theory of operation: three eBPF programs (bpf/no-touch-bridge.bpf.c) carry frames between the interface and a veth
 * end of the segment (segment.ts). The interface keeps its addresses, routes and name; what is changed on it is undone
 * later (uplink-changes.ts). What is attached is read from the kernel: a filter's name is a digest of the object,
 * addresses included.
 *
 * If the kernel has tcx hooks, the interface's two programs are attached there, as clsact delays what the host sends.
 * They are filters of the veth end, too, in a chain that no frame reaches: there their names are read, and from there
 * they are attached by their ids. An interface that has our clsact filters already keeps them until its last VM is
 * detached.
 *
 * Attaching and detaching are guarded by two observations of the host's connectivity (B19).
 *
 * Limits: large receive offload (LRO) must be off, as for any forwarding; the kernel switches it off if the interface
 * has a route. Linux 5.3 and later, with tc of iproute2 5.10 and later.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Link, listLinks } from '../../../host/links.ts';
import { type BpfFilter, ensureClsact, listBpfFilters, removeFilter, replaceBpfFilter, type TcDirection } from '../../../host/tc.ts';
import { hasTcx } from '../../../host/tcx.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { parseMac } from '../../../wire/address.ts';
import { EbpfObject } from '../ebpf/object.ts';
import { segmentNames } from '../names.ts';
import { findLoss, type HostGuard, observeHost, restoreRoutes } from './host-connectivity.ts';
import { noTouchConfig } from './no-touch-object.ts';
import { removeSegment, segmentUplinks } from './segment.ts';
import { UplinkChanges } from './uplink-changes.ts';
import { TCX_STORE, UplinkTcx } from './uplink-tcx.ts';

export interface BridgedVm {
  mac: number;
  isolated: boolean;
}

const OBJECT_PREFIX = 'anka-ntb-';
/** Between what others put first (a CNI) and what the kernel assigns by itself (49152). */
const PREFERENCE = 97;
/** Attempts before a refusal by the kernel counts. */
const ATTEMPTS = 3;
const RETRY_MS = 100;

interface Program {
  /** The host's interface, or the segment's veth end. */
  at: 'uplink' | 'port';
  direction: TcDirection;
  chain: number;
  section: string;
}

/** In the order of attaching: outbound first, so that no answer is lost. */
const PROGRAMS: readonly Program[] = [
  { at: 'port', direction: 'ingress', chain: 0, section: 'tc/port_in' },
  { at: 'uplink', direction: 'egress', chain: 0, section: 'tc/nic_out' },
  { at: 'uplink', direction: 'ingress', chain: 0, section: 'tc/nic_in' },
];
/** The same, if the interface has them at tcx. */
const PROGRAMS_FOR_TCX: readonly Program[] = PROGRAMS.map((p) => (p.at === 'uplink' ? { ...p, at: 'port', chain: TCX_STORE } : p));

/** What connecting a segment takes, from what is attached now. */
interface JoinPlan {
  uplink: Link;
  port: Link;
  vms: readonly BridgedVm[];
  object: EbpfObject;
  fileName: string;
  /** Identifies the change to the guard. */
  change: string;
  /** The interface's programs are attached at tcx. */
  tcx: boolean;
  /** The interface has no program of ours yet. */
  first: boolean;
  missing: readonly Program[];
  portFilters: readonly BpfFilter[];
}

export const cannotBridge = (uplink: string, why: string): string =>
  `${uplink} cannot be bridged as it is (${why}); put ${uplink} into a bridge, and name that bridge with -b`;

type Log = { info(o: object, m: string): void; warn(o: object, m: string): void };

export class NoTouchBridges {
  #log: Log;
  #changes: UplinkChanges;
  #guard: HostGuard;
  #tcx = new UplinkTcx();

  constructor(runDir: string, log: Log, guard: HostGuard) {
    this.#guard = guard;
    this.#changes = new UplinkChanges(runDir, log);
    this.#log = log;
  }

  /** Interfaces that have a no-touch bridge, or part of one. */
  uplinks(links: readonly Link[]): string[] {
    return [...new Set([...segmentUplinks(links), ...this.#changes.uplinks()])];
  }

  /** Whether somebody detached a program at tcx, of which the kernel sends no notification. */
  hasDrifted(): boolean {
    return this.#tcx.hasDrifted();
  }

  /**
   * Connects the segment to the interface, or updates it. Returns why eBPF is not available, which is tried on our own
   * interface before the host's is changed; null on success.
   */
  async join(uplink: string, vms: readonly BridgedVm[]): Promise<string | null> {
    const plan = await this.#plan(uplink, vms);
    if (!plan.first) {
      await this.#attach(plan);
      return null;
    }
    const refusal = await this.#tryPort(plan);
    if (refusal !== null) return refusal;
    await this.#guard.during({ uplink, change: plan.change, work: () => this.#attach(plan), undo: () => this.#detach(uplink) });
    return null;
  }

  async #plan(name: string, vms: readonly BridgedVm[]): Promise<JoinPlan> {
    const links = await listLinks();
    const names = segmentNames(name);
    const uplink = links.find((l) => l.name === name);
    const port = links.find((l) => l.name === names.uplinkPort);
    if (!uplink || !port) throw missingInterface(uplink ? names.uplinkPort : name);
    const hostMac = parseMac(uplink.mac);
    if (hostMac === null) throw new AnkaError('network', `interface ${name} has no Ethernet address`);
    const object = new EbpfObject('no-touch-bridge').setConfig('ANKANTB', noTouchConfig({ uplink: uplink.index, port: port.index, hostMac, vms }));
    const fileName = object.fileName(OBJECT_PREFIX);
    const change = `${uplink.index} ${vms.map((v) => v.mac).join()}`;
    this.#guard.demandNotUndone(name, change);
    const filters = await listBpfFilters([name, port.name]);
    const tcx = hasTcx(uplink.index) && !filters.get(name)?.some(isOurs);
    const wanted = tcx ? PROGRAMS_FOR_TCX : PROGRAMS;
    const filterOf = (p: Program): BpfFilter | undefined =>
      filters.get(p.at === 'uplink' ? name : port.name)?.find((f) => f.direction === p.direction && f.chain === p.chain && f.preference === PREFERENCE);
    const foreign = wanted.map(filterOf).find((f) => f && !isOurs(f));
    if (foreign) throw new AnkaError('network', cannotBridge(name, `the filter ${foreign.name} of another program is where ours would be`));
    const missing = wanted.filter((p) => filterOf(p)?.name !== `${fileName}:[${p.section}]`);
    const first = tcx ? !this.#tcx.has(uplink.index) : wanted.some((p) => p.at === 'uplink' && !filterOf(p));
    return { uplink, port, vms, object, fileName, change, tcx, first, missing, portFilters: filters.get(port.name) ?? [] };
  }

  /** Attaches the programs at our own interface. Returns why the kernel refuses them, or null. */
  async #tryPort(plan: JoinPlan): Promise<string | null> {
    // a refusal counts for the life of this process, so a passing failure must not be taken for one
    let refusal: string | null = null;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      if (attempt > 1) await sleep(RETRY_MS);
      refusal = await this.#attachAt('port', plan).then(
        () => null,
        (cause: Error) => cause.message,
      );
      if (refusal === null) return null;
    }
    if (!(await listLinks()).some((l) => l.index === plan.port.index)) throw missingInterface(plan.port.name);
    return refusal;
  }

  async #attach(plan: JoinPlan): Promise<void> {
    const { uplink, port, vms, tcx, first, missing } = plan;
    let changed = missing.length > 0;
    try {
      await this.#changes.receive(
        uplink,
        vms.map((v) => v.mac),
      );
      if (!first) await this.#attachAt('port', plan);
      await this.#attachAt('uplink', plan);
      const portFilters = missing.length > 0 ? ((await listBpfFilters([port.name])).get(port.name) ?? []) : plan.portFilters;
      if (tcx) changed = this.#tcx.attach(uplink.index, portFilters) || changed;
      else this.#tcx.detach(uplink.index);
    } catch (cause) {
      throw new AnkaError('network', cannotBridge(uplink.name, (cause as Error).message), { cause });
    }
    if (!changed) return;
    const details = { uplink: uplink.name, vms: vms.length, name: plan.fileName, hooks: tcx ? 'tcx' : 'clsact' };
    this.#log.info(details, first ? 'bridged the interface' : 'updated the bridge');
  }

  async #attachAt(at: Program['at'], { uplink, port, object, fileName, missing }: JoinPlan): Promise<void> {
    const programs = missing.filter((p) => p.at === at);
    if (programs.length === 0) return;
    if (at === 'port') await ensureClsact(port.name);
    else await this.#changes.ensureClsact(uplink);
    const device = at === 'port' ? port.name : uplink.name;
    for (const { direction, chain, section } of programs)
      await replaceBpfFilter(device, { direction, chain, preference: PREFERENCE, name: `${fileName}:[${section}]`, code: object.program(section) });
  }

  /** Removes everything of ours from the interface. */
  async #detach(name: string): Promise<void> {
    const uplink = (await listLinks()).find((l) => l.name === name);
    if (uplink) {
      for (const f of (await listBpfFilters([name])).get(name) ?? []) if (isOurs(f)) await removeFilter(name, f.direction, f.preference);
      this.#tcx.detach(uplink.index);
    }
    await this.#changes.undo(name, uplink);
  }

  /** Removes the bridge. Returns what was removed. */
  async remove(uplink: string): Promise<string[]> {
    const links = await listLinks();
    const before = links.some((l) => l.name === uplink) ? await observeHost(uplink) : null;
    await this.#detach(uplink);
    const removed = await removeSegment(uplink, links);
    if (before) {
      const loss = findLoss(before, await observeHost(uplink, before.answering));
      if (loss !== null) this.#log.warn({ uplink, loss, failed: await restoreRoutes(before) }, 'the host lost connectivity when the bridge was removed');
    }
    this.#log.info({ uplink }, 'removed the bridge');
    return removed;
  }
}

const isOurs = (f: BpfFilter): boolean => f.name.startsWith(OBJECT_PREFIX);

const missingInterface = (name: string): AnkaError => new AnkaError('network', `interface ${name} does not exist`);
