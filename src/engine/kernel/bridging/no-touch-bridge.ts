/**
 * The no-touch bridge of one interface: made, kept, and taken away.
 *
 * Theory of operation: a bridge of ours with the VMs' taps, and a veth pair that three eBPF programs
 * (bpf/no-touch-bridge.bpf.c) join to the interface. The interface is in no bridge: its addresses, routes and name
 * stay. What it has to be told is that it takes in the VMs' addresses (or everything, where its driver has no such
 * list), and all groups, for IPv6 asks by group. What was changed on it is noted in a file before, so that it can be
 * undone after a crash. What is attached is asked of the kernel: a filter's name is a digest of the object, addresses
 * included.
 *
 * Where the kernel has tcx hooks, the interface's two programs go there, as clsact costs the host some of what it
 * sends. `tc` loads them nevertheless: as filters of the port, in a chain that no frame comes to, where their names
 * tell what they are, and from where they are attached by their numbers. An interface that has our filters already
 * keeps them to its last VM.
 *
 * Attaching and detaching are done between two looks at the host's connectivity (B19).
 *
 * Limits: an interface is known by its name, so one that is renamed is another. Large receive offload (LRO) must be
 * off, as for any forwarding; the kernel switches it off where the interface has a route. Linux 5.3 and later, with tc
 * of iproute2 5.10 and later.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { JsonRecord } from '../../../host/json-record.ts';
import { ipBatch, type Link, listLinks } from '../../../host/links.ts';
import { setSysctl } from '../../../host/sysctl.ts';
import {
  type BpfFilter,
  ensureClsact,
  hasClsact,
  hasFilters,
  listBpfFilters,
  removeClsact,
  removeFilter,
  replaceBpfFilter,
  type TcDirection,
} from '../../../host/tc.ts';
import { hasTcx } from '../../../host/tcx.ts';
import { addFilterAddress, listFilterAddresses, removeFilterAddress } from '../../../host/unicast-filter.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { parseMac } from '../../../wire/address.ts';
import { EbpfObject } from '../ebpf/object.ts';
import { GROUP, LABEL, type SegmentNames, segmentNames } from '../names.ts';
import { type HostGuard, lookAtHost, lostSince, restoreRoutes } from './host-connectivity.ts';
import { noTouchConstant } from './no-touch-object.ts';
import { TCX_STORE, UplinkTcx } from './uplink-tcx.ts';

/** What was changed on one interface. */
interface Changes {
  /** Interface index: one that went and came back has nothing of ours. */
  index: number;
  clsact: boolean;
  allMulticast: boolean;
  promiscuous: boolean;
  macs: number[];
}

export interface BridgedVm {
  mac: number;
  parted: boolean;
}

const OBJECT_PREFIX = 'anka-ntb-';
/** Between what others put first (a CNI) and what the kernel numbers by itself (49152). */
const PREFERENCE = 97;
/** Until the kernel's refusal of a program is believed. */
const ATTEMPTS = 3;
const AGAIN_MS = 100;

interface Program {
  at: 'nic' | 'port';
  direction: TcDirection;
  chain: number;
  section: string;
}

/** In the order of attaching: the way out first, so that no answer is lost. */
const PROGRAMS: readonly Program[] = [
  { at: 'port', direction: 'ingress', chain: 0, section: 'tc/port_in' },
  { at: 'nic', direction: 'egress', chain: 0, section: 'tc/nic_out' },
  { at: 'nic', direction: 'ingress', chain: 0, section: 'tc/nic_in' },
];
/** The same, where the interface has them at tcx. */
const PROGRAMS_FOR_TCX: readonly Program[] = PROGRAMS.map((p) => (p.at === 'nic' ? { ...p, at: 'port', chain: TCX_STORE } : p));

/** The way out where the interface cannot be bridged. */
export const cannotBridge = (uplink: string, why: string): string =>
  `${uplink} cannot be bridged without touching it (${why}); put ${uplink} into a bridge, and name that with -b`;

type Log = { info(o: object, m: string): void; warn(o: object, m: string): void };

export class NoTouchBridges {
  #dir: string;
  #log: Log;
  readonly #changes: JsonRecord<Changes>;
  #guard: HostGuard;
  #tcx = new UplinkTcx();

  /** `runDir` is emptied by a reboot, as the kernel is. */
  constructor(runDir: string, log: Log, guard: HostGuard) {
    this.#guard = guard;
    this.#dir = `${runDir}/bpf`;
    this.#changes = new JsonRecord(`${runDir}/uplinks.json`);
    this.#log = log;
  }

  /** Interfaces that have a bridge, or something of one. */
  known(links: readonly Link[]): string[] {
    const labelled = links.flatMap((l) => (l.alias.startsWith(`${LABEL}uplink=`) ? [l.alias.slice(LABEL.length + 7)] : []));
    return [...new Set([...labelled, ...this.#changes.entries.keys()])];
  }

  /** Whether another took away what joins an interface, in a way that no monitor tells. */
  isDisturbed(): boolean {
    return this.#tcx.isDisturbed();
  }

  /** Makes the segment, without joining it to anything. */
  async makeSegment(uplink: string, mtu: number, links: readonly Link[]): Promise<SegmentNames> {
    const names = segmentNames(uplink);
    const byName = new Map(links.map((l) => [l.name, l]));
    const bridge = byName.get(names.bridge);
    const plug = byName.get(names.plug);
    const port = byName.get(names.port);
    const lines: string[] = [];
    if (!bridge) lines.push(`link add name ${names.bridge} group ${GROUP} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`);
    if (!plug !== !port) lines.push(`link del dev ${plug ? names.plug : names.port}`);
    if (!plug || !port) lines.push(`link add name ${names.plug} group ${GROUP} type veth peer name ${names.port}`);
    const label = `${LABEL}uplink=${uplink}`;
    const made = [...(bridge?.alias === label ? [] : [names.bridge]), ...(plug?.alias === label && port?.alias === label ? [] : [names.plug, names.port])];
    // the host's stack has nothing to do with them: no ARP, no IPv6
    for (const n of made) lines.push(`link set dev ${n} group ${GROUP}`, `link set dev ${n} arp off addrgenmode none`);
    await ipBatch(lines);
    for (const n of made) await setSysctl(`net/ipv6/conf/${n}/disable_ipv6`, '1');
    // the label comes last: what has none is not ready, as after a crash
    await ipBatch(made.map((n) => `link set dev ${n} alias ${label}`));
    const rest: string[] = [];
    for (const [n, l] of [
      [names.port, port],
      [names.plug, plug],
      [names.bridge, bridge],
    ] as const) {
      if (made.includes(n) || l?.mtu !== mtu) rest.push(`link set dev ${n} mtu ${mtu}`);
      if (n === names.plug && (made.includes(n) || made.includes(names.bridge) || l?.master !== names.bridge))
        rest.push(`link set dev ${n} master ${names.bridge}`);
      if (made.includes(n) || !l?.up) rest.push(`link set dev ${n} up`);
    }
    await ipBatch(rest);
    return names;
  }

  /**
   * Joins the segment to the interface, or brings it up to date. Resolves with why eBPF cannot be used on this host, as
   * it is tried on an interface of ours before the host's is touched; with null when it is done.
   */
  async join(uplink: string, vms: readonly BridgedVm[]): Promise<string | null> {
    const links = await listLinks();
    const names = segmentNames(uplink);
    const nic = links.find((l) => l.name === uplink);
    const port = links.find((l) => l.name === names.port);
    if (!nic || !port) throw new AnkaError('network', `interface ${nic ? names.port : uplink} is gone`);
    const hostMac = parseMac(nic.mac);
    if (hostMac === null) throw new AnkaError('network', `interface ${uplink} has no Ethernet address`);
    const object = new EbpfObject('no-touch-bridge').setConfig('ANKANTB', noTouchConstant({ nic: nic.index, port: port.index, hostMac, vms }));
    const name = object.fileName(OBJECT_PREFIX);
    const wish = `${nic.index} ${vms.map((v) => v.mac).join()}`;
    this.#guard.demandUntried(uplink, wish);
    const found = await listBpfFilters([uplink, names.port]);
    const byTcx = hasTcx(nic.index) && !found.get(uplink)?.some((f) => f.name.startsWith(OBJECT_PREFIX));
    const wanted = byTcx ? PROGRAMS_FOR_TCX : PROGRAMS;
    const device = (p: Pick<Program, 'at'>): string => (p.at === 'nic' ? uplink : names.port);
    const isAt = (p: Program, f: BpfFilter): boolean => f.direction === p.direction && f.chain === p.chain && f.preference === PREFERENCE;
    const at = (p: Program): BpfFilter | undefined => found.get(device(p))?.find((f) => isAt(p, f));
    const stranger = wanted.map(at).find((f) => f && !f.name.startsWith(OBJECT_PREFIX));
    if (stranger)
      throw new AnkaError(
        'network',
        `${uplink} has another program's filter (${stranger.name}) where ours would be; put ${uplink} into a bridge, and name that with -b`,
      );
    const missing = wanted.filter((p) => at(p)?.name !== `${name}:[${p.section}]`);
    const attach = async (at: Program['at']): Promise<void> => {
      const programs = missing.filter((p) => p.at === at);
      if (programs.length === 0) return;
      if (at === 'port') await ensureClsact(names.port);
      else await this.#ensureClsact(uplink, nic.index);
      await object.withFile(this.#dir, name, async (path) => {
        for (const { direction, chain, section } of programs)
          await replaceBpfFilter(device({ at }), { direction, chain, preference: PREFERENCE, object: path, section });
      });
    };
    const fresh = byTcx ? !this.#tcx.has(nic.index) : wanted.some((p) => p.at === 'nic' && !at(p));
    if (fresh) {
      const tried = (): Promise<string | null> =>
        attach('port').then(
          () => null,
          (cause: Error) => cause.message,
        );
      let refusal = await tried();
      // what is refused here counts for as long as this process lives, so nothing that passes may be taken for it
      for (let tries = 1; refusal !== null && tries < ATTEMPTS; tries++) {
        await sleep(AGAIN_MS);
        refusal = await tried();
      }
      if (refusal !== null && !(await listLinks()).some((l) => l.index === port.index)) throw new AnkaError('network', `interface ${names.port} is gone`);
      if (refusal !== null) return refusal;
    }
    const work = async (): Promise<void> => {
      let changed = missing.length > 0;
      try {
        await this.#listen(uplink, nic, vms);
        if (!fresh) await attach('port');
        await attach('nic');
        const now = missing.length > 0 ? await listBpfFilters([names.port]) : found;
        if (byTcx) changed = this.#tcx.bring(nic.index, now.get(names.port) ?? []) || changed;
        else this.#tcx.part(nic.index);
      } catch (cause) {
        throw new AnkaError('network', cannotBridge(uplink, (cause as Error).message), { cause });
      }
      const hooks = byTcx ? 'tcx' : 'clsact';
      if (changed) this.#log.info({ uplink, vms: vms.length, name, hooks }, fresh ? 'the interface is bridged' : 'the bridge is up to date');
    };
    await (fresh ? this.#guard.during(uplink, wish, work, () => this.#part(uplink)) : work());
    return null;
  }

  async #ensureClsact(uplink: string, index: number): Promise<void> {
    if (await hasClsact(uplink)) return;
    this.#of(uplink, index).clsact = true;
    this.#changes.save();
    await ensureClsact(uplink);
  }

  /** Lets the interface take in what is for VMs. */
  async #listen(uplink: string, nic: Link, vms: readonly BridgedVm[]): Promise<void> {
    const changes = this.#of(uplink, nic.index);
    const have = await listFilterAddresses(uplink);
    const macs = vms.map((v) => v.mac);
    for (const mac of changes.macs.filter((m) => !macs.includes(m))) {
      if (have.has(mac)) await removeFilterAddress(uplink, mac);
      changes.macs = changes.macs.filter((m) => m !== mac);
      this.#changes.save();
    }
    const add = macs.filter((m) => !have.has(m));
    if (add.length > 0 && !changes.promiscuous) {
      changes.macs = [...new Set([...changes.macs, ...add])];
      this.#changes.save();
      try {
        for (const m of add) await addFilterAddress(uplink, m);
      } catch (cause) {
        if (!nic.promiscuous) {
          this.#log.info({ uplink, error: (cause as Error).message }, 'the interface takes no list of addresses: it listens to all');
          changes.promiscuous = true;
          this.#changes.save();
        }
      }
    }
    if (changes.promiscuous && !nic.promiscuous) await ipBatch([`link set dev ${uplink} promisc on`]);
    if (!nic.allMulticast) {
      changes.allMulticast = true;
      this.#changes.save();
      await ipBatch([`link set dev ${uplink} allmulticast on`]);
    }
  }

  /** Takes everything of ours off the interface. */
  async #part(uplink: string): Promise<void> {
    const nic = (await listLinks()).find((l) => l.name === uplink);
    const changes = this.#changes.entries.get(uplink);
    if (nic) {
      for (const f of (await listBpfFilters([uplink])).get(uplink) ?? [])
        if (f.name.startsWith(OBJECT_PREFIX)) await removeFilter(uplink, f.direction, f.preference);
      this.#tcx.part(nic.index);
      if (changes?.index === nic.index) {
        if (changes.clsact && !(await hasFilters(uplink))) await removeClsact(uplink);
        const have = await listFilterAddresses(uplink);
        for (const m of changes.macs) if (have.has(m)) await removeFilterAddress(uplink, m);
        const lines: string[] = [];
        if (changes.allMulticast) lines.push(`link set dev ${uplink} allmulticast off`);
        if (changes.promiscuous) lines.push(`link set dev ${uplink} promisc off`);
        await ipBatch(lines);
      }
    }
    if (changes) {
      this.#changes.entries.delete(uplink);
      this.#changes.save();
    }
  }

  /** Takes the bridge away; tells what was removed. */
  async remove(uplink: string): Promise<string[]> {
    const links = await listLinks();
    const there = links.some((l) => l.name === uplink);
    const before = there ? await lookAtHost(uplink) : null;
    await this.#part(uplink);
    const names = segmentNames(uplink);
    const removed: string[] = [];
    for (const n of [names.port, names.bridge]) {
      if (!links.some((l) => l.name === n)) continue;
      await ipBatch([`link del dev ${n}`]);
      removed.push(`interface ${n}`);
    }
    if (before) {
      const lost = lostSince(before, await lookAtHost(uplink, before.answering));
      if (lost !== null) this.#log.warn({ uplink, lost, failed: await restoreRoutes(before) }, 'the host lost something when the bridge was removed');
    }
    this.#log.info({ uplink }, 'the bridge is gone');
    return removed;
  }

  #of(uplink: string, index: number): Changes {
    const known = this.#changes.entries.get(uplink);
    if (known?.index === index) return known;
    const blank: Changes = { index, clsact: false, allMulticast: false, promiscuous: false, macs: [] };
    this.#changes.entries.set(uplink, blank);
    return blank;
  }
}
