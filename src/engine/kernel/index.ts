/**
 * The kernel engine: Linux bridges, taps and nftables; the packets never enter this program.
 *
 * Theory of operation: `apply` stores the desired state and brings the host to it: links by `ip -batch`, object by
 * object; all rules as one nft transaction; translation of MAC addresses by tc, before a card is plugged in; DHCP, DNS
 * and listeners by the service process. What is in force is compared with what was written after every cue from `ip
 * monitor`, `nft monitor` and `tc monitor`, and at least every ten seconds; the difference is repaired from the last
 * desired state (B90). Addresses come from the service's leases and from the ARP table, which is read once a second;
 * those of bridged guests from what they claim (bridged-addresses.ts).
 *
 * Limits: IPv6 does not leave the shared and the host network.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { INTERFACE_FOLDERS } from '../../host/ethernet.ts';
import { run } from '../../host/exec.ts';
import { ebpfRefusal } from '../../host/ffi/bpf.ts';
import { openTap } from '../../host/ffi/tap.ts';
import { ipBatch, listAddresses, listLinks, listRoutes } from '../../host/links.ts';
import { rulesetGeneration } from '../../host/netlink/netfilter.ts';
import { applyNft, listTable, withoutDynamicElements } from '../../host/nft.ts';
import { RESOLVER_FOLDERS } from '../../host/resolvers.ts';
import { readSysctl } from '../../host/sysctl.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { Explanation } from '../../net/explain/explanation.ts';
import { explainKernel } from '../../net/explain/kernel-engine.ts';
import type { Packet } from '../../net/explain/packet.ts';
import { subnetProblems } from '../doctor/subnet-clash.ts';
import type {
  Capture,
  CaptureSide,
  DesiredNic,
  DesiredState,
  DoctorFinding,
  Engine,
  EngineProblem,
  NicBackend,
  NicStats,
  ObservedNic,
  ObservedState,
} from '../engine.ts';
import { ProcessClient } from '../process/client.ts';
import { asUser, PROCESS_UIDS } from '../process/users.ts';
import { BridgedAddresses } from './addresses/bridged-addresses.ts';
import { GuestAddresses } from './addresses/guest-addresses.ts';
import { type Attachments, Uplinks } from './bridging/uplinks.ts';
import { openCapture } from './capture.ts';
import { ChangeMonitors } from './change-monitors.ts';
import { examineHost } from './doctor.ts';
import { MacTranslations } from './ebpf/mac-translation.ts';
import { needsEbpf, withoutEbpf } from './ebpf/needs.ts';
import { applyVlanTags } from './ebpf/vlan-tags.ts';
import { gatherFacts } from './explain-facts.ts';
import { isOurs, type LinkPlan, masterOf, planLinks, planTaps } from './link-plan.ts';
import { BRIDGES, TABLES, tapName } from './names.ts';
import { DROP_REASONS } from './rules/drop-reasons.ts';
import { allowThroughFirewalls, findFirewalls, removeFirewallAllowances } from './rules/firewalls.ts';
import { closeConnections, NicLocations, type StaleConnections } from './rules/flows.ts';
import { keptElements, readDrops } from './rules/kept-elements.ts';
import type { NicTap } from './rules/netdev-table.ts';
import type { RuledNic, Segments } from './rules/rule-input.ts';
import { removeTables, renderRuleset } from './rules/ruleset.ts';
import { type ServiceMethods, type ServiceStatus, serviceConfigOf } from './service/config.ts';
import { SysctlRecord } from './sysctl-record.ts';

export interface KernelEngineOptions {
  runDir: string;
  stateDir: string;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
}

const SAFETY_CHECK_MS = 10_000;
const LOOK_MS = 1000;
const CUE_DELAY_MS = 30;
const EMPTY: DesiredState = { networks: [], nics: [], dnsServers: [] };

/** What was made of a text of rules, to be compared later. */
interface AppliedRules {
  wanted: string;
  inForce: string;
}

class KernelEngine implements Engine {
  readonly name = 'kernel' as const;
  #options: KernelEngineOptions;
  #desired: DesiredState = EMPTY;
  #hasDesired = false;
  #service: ProcessClient<ServiceMethods>;
  #serviceStatus: ServiceStatus | null = null;
  #serviceConfig = '';
  #guests = new GuestAddresses();
  #locations = new NicLocations();
  /** What of that has not been done yet. */
  #stale: StaleConnections[] = [];
  #uplinks: Uplinks;
  /** Where the taps of bridge-type cards went. */
  #attachments: Attachments = new Map();
  #bridged: BridgedAddresses;
  /** Cards' interfaces as they were at the last check. */
  #taps: NicTap[] = [];
  /** The host's addresses on bridged interfaces. */
  #hostAddresses: string[] = [];
  #applied: AppliedRules | null = null;
  #problems: EngineProblem[] = [];
  #watchers = new Set<() => void>();
  #monitors = new ChangeMonitors(() => this.#soon());
  #timers: NodeJS.Timeout[] = [];
  #cue: NodeJS.Timeout | null = null;
  #queue: Promise<unknown> = Promise.resolve();
  #closed = false;
  #lastCheck = 0;
  #sysctl: SysctlRecord;
  #translations: MacTranslations;

  constructor(options: KernelEngineOptions) {
    this.#options = options;
    this.#uplinks = new Uplinks(options.runDir, options.log);
    this.#bridged = new BridgedAddresses(options.runDir);
    this.#sysctl = new SysctlRecord(join(options.runDir, 'sysctl.json'));
    this.#translations = new MacTranslations(join(options.runDir, 'bpf'), (o, m) => options.log.warn(o, m));
    this.#service = new ProcessClient({
      title: 'the network service',
      program: new URL('./service/service-main.ts', import.meta.url),
      // in folders of its own, as it can open no others
      socket: join(options.runDir, 'service/control.sock'),
      leases: join(options.stateDir, 'service/leases.json'),
      log: join(options.stateDir, 'service/log'),
      arguments: asUser(PROCESS_UIDS.service),
      fence: { read: [...RESOLVER_FOLDERS, ...INTERFACE_FOLDERS] },
      onChanged: () => void this.#enqueue(() => this.#look()),
      onExit: () => {
        this.#serviceConfig = '';
        this.#options.log.warn({}, 'the network service is gone: starting it again');
        this.#soon();
      },
    });
  }

  validate(desired: DesiredState): Promise<EngineProblem[]> {
    return this.#validate(desired);
  }

  async #validate(desired: DesiredState): Promise<EngineProblem[]> {
    const ours = new Set<string>(Object.values(BRIDGES));
    const problems = subnetProblems(
      desired.networks,
      (await listRoutes()).filter((r) => !ours.has(r.dev)),
    );
    const refusal = desired.nics.some(needsEbpf) ? ebpfRefusal() : null;
    for (const nic of desired.nics) {
      const problem = nic.type === 'bridge' ? this.#uplinks.validate(nic) : null;
      if (problem) problems.push({ object: `nic:${nic.id}`, message: problem });
      else if (refusal !== null && needsEbpf(nic)) problems.push({ object: `nic:${nic.id}`, message: withoutEbpf(nic, refusal) });
    }
    return problems;
  }

  apply(desired: DesiredState): Promise<EngineProblem[]> {
    return this.#enqueue(async () => {
      for (const old of this.#desired.nics) {
        const now = desired.nics.find((n) => n.id === old.id);
        if (!now || now.type !== old.type || now.outsideMac !== old.outsideMac) this.#guests.forget(old.id);
      }
      this.#desired = desired;
      this.#hasDesired = true;
      await this.#reconcile();
      this.#startWatching();
      return this.#problems;
    });
  }

  async observe(): Promise<ObservedState> {
    const status = this.#serviceStatus;
    const counters = await this.#dropCounters();
    const links = await listLinks();
    const problems = this.#problems;
    return {
      problems,
      networks: this.#desired.networks.map((n) => {
        const s = status?.networks.find((x) => x.name === n.name);
        const problem = problems.find((p) => p.object === `network:${n.name}` || p.object === 'host');
        const up = links.some((l) => l.name === BRIDGES[n.name] && l.up);
        return {
          name: n.name,
          interface: BRIDGES[n.name],
          healthy: up && !problem && (s?.dhcpListening ?? false) && (s?.dnsListening ?? false),
          leases: s?.leases ?? 0,
          poolSize: s?.poolSize ?? 0,
          message: problem?.message ?? s?.message ?? '',
        };
      }),
      nics: this.#desired.nics.map((nic) => this.#observeNic(nic, status, counters, links.find((l) => l.name === tapName(nic.id))?.master ?? null)),
    };
  }

  #observeNic(nic: DesiredNic, status: ServiceStatus | null, counters: Map<string, Map<string, number>>, master: string | null): ObservedNic {
    const s = status?.nics.find((x) => x.id === nic.id);
    const self = this.#guests.addressOf(nic.id);
    const bridged = nic.type === 'bridge' ? this.#bridged.addressOf(nic) : null;
    const ip = bridged ?? self ?? s?.ip ?? null;
    const problem = this.#problems.find((p) => p.object === `nic:${nic.id}`);
    const served = nic.type === 'shared' || nic.type === 'host';
    const plugged = nic.type === 'disconnected' ? master === null : served ? master === BRIDGES[nic.type as 'shared' | 'host'] : master !== null;
    const rules = nic.rules.map((r) => {
      const l = s?.rules.find((x) => x.name === r.name);
      if (!served) return { name: r.name, active: false, reason: `port forwarding has no use on type ${nic.type}` };
      return { name: r.name, active: l?.listening ?? false, reason: l?.listening ? '' : (l?.reason ?? 'the network service does not answer') };
    });
    const tap = tapName(nic.id);
    const limit = nic.type === 'bridge' ? this.#attachments.get(nic.id)?.limit : '';
    return {
      id: nic.id,
      ip,
      source: self !== null || bridged !== null ? 'static' : ip === null ? 'none' : 'lease',
      leaseExpires: self === null ? (s?.leaseExpires ?? null) : null,
      lastDhcp: s?.lastDhcp ?? null,
      backend: tap,
      healthy: plugged && !problem,
      ...(limit ? { limit } : {}),
      drops: Object.fromEntries(DROP_REASONS.flatMap((r) => (counters.get(r)?.get(tap) ? [[r, counters.get(r)?.get(tap) as number]] : []))),
      rules,
    };
  }

  async #dropCounters(): Promise<Map<string, Map<string, number>>> {
    return this.#hasDesired && this.#desired.nics.length > 0 ? readDrops(this.#desired.nics) : new Map();
  }

  async stats(): Promise<NicStats[]> {
    const text = await run('ip', ['-j', '-s', 'link', 'show']);
    const links = JSON.parse(text) as { ifname?: string; stats64?: { rx: { bytes: number; packets: number }; tx: { bytes: number; packets: number } } }[];
    const counters = await this.#dropCounters();
    return this.#desired.nics.flatMap((nic) => {
      const tap = tapName(nic.id);
      const s = links.find((l) => l.ifname === tap)?.stats64;
      const drops = Object.fromEntries(DROP_REASONS.flatMap((r) => (counters.get(r)?.get(tap) ? [[r, counters.get(r)?.get(tap) as number]] : [])));
      // what the host's tap receives is what the guest sends
      return s ? [{ id: nic.id, rxPackets: s.tx.packets, rxBytes: s.tx.bytes, txPackets: s.rx.packets, txBytes: s.rx.bytes, drops }] : [];
    });
  }

  async openNic(id: string): Promise<NicBackend> {
    const { closeSync } = await import('node:fs');
    const fd = openTap(tapName(id), true);
    let open = true;
    return {
      kind: 'tap-fd',
      fd,
      vnetHdr: true,
      release() {
        if (open) closeSync(fd);
        open = false;
      },
    };
  }

  async capture(id: string, side: CaptureSide, filter: string): Promise<Capture> {
    const nic = this.#desired.nics.find((n) => n.id === id);
    if (!nic) throw new AnkaError('network', `the engine knows no card of VM ${id}`);
    return openCapture(nic, side, filter);
  }

  async explain(id: string, packet: Packet): Promise<Explanation> {
    const addresses = new Map((await this.observe()).nics.map((n) => [n.id, n.ip]));
    const facts = await gatherFacts(this.#desired, this.#attachments, (x) => addresses.get(x) ?? null);
    const card = facts.cards.find((c) => c.id === id);
    if (!card) throw new AnkaError('network', `the engine knows no card of VM ${id}`);
    return explainKernel(facts, card, packet);
  }

  async forgetNic(id: string): Promise<void> {
    this.#guests.forget(id);
    this.#locations.forget(id);
    await this.#service.callIfRunning('forget', { id });
  }

  watch(onChange: () => void): () => void {
    this.#watchers.add(onChange);
    return () => this.#watchers.delete(onChange);
  }

  async doctor(): Promise<DoctorFinding[]> {
    const service = this.#desired.networks.length === 0 ? null : await this.#service.callIfRunning('status', {}).catch(() => null);
    const askers = service ? [{ title: 'the network service', pid: service.pid, servers: service.upstreams }] : [];
    return examineHost(this.#desired, (await this.observe()).nics, askers);
  }

  reset(): Promise<string[]> {
    return this.#enqueue(async () => {
      this.#desired = EMPTY;
      this.#hasDesired = false;
      this.#stopWatching();
      const removed: string[] = [];
      const before = this.#service;
      const pid = (await before.callIfRunning('status', {}).catch(() => null))?.pid;
      if (pid !== undefined) {
        await before.callIfRunning('stop', {}).catch(() => null);
        removed.push(`network service (pid ${pid})`);
        for (
          let i = 0;
          i < 200 &&
          (await run('ps', ['-p', String(pid)]).then(
            () => true,
            () => false,
          ));
          i++
        )
          await sleep(20);
      }
      removed.push(...(await removeFirewallAllowances()));
      removed.push(...(await this.#uplinks.removeAll()));
      const tables = (await Promise.all(TABLES.map(async ([f, t]) => ((await listTable(f, t)) === null ? null : `nft table ${f} ${t}`)))).filter(
        (t) => t !== null,
      );
      if (tables.length > 0) await applyNft(removeTables());
      removed.push(...tables);
      for (const l of await listLinks()) {
        if (!isOurs(l)) continue;
        await ipBatch([`link del dev ${l.name}`]);
        removed.push(`interface ${l.name}`);
      }
      await this.#sysctl.restore();
      this.#applied = null;
      this.#serviceConfig = '';
      return removed;
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#stopWatching();
    await this.#queue;
    this.#service.close();
  }

  /** One thing at a time. */
  #enqueue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch((cause: Error) => this.#options.log.warn({ error: cause.message }, 'kernel engine'));
    return result;
  }

  /** Brings the host to the desired state. */
  async #reconcile(): Promise<void> {
    this.#lastCheck = Date.now();
    const problems: EngineProblem[] = [];
    const attempt = async (object: string, work: () => Promise<unknown>): Promise<void> => {
      try {
        await work();
      } catch (cause) {
        problems.push({ object, message: (cause as Error).message });
        this.#options.log.warn({ object, error: (cause as Error).message }, 'not applied');
      }
    };
    const desired = this.#desired;
    this.#attachments = await this.#uplinks.apply(desired.nics, desired.bridgeMethod ?? 'auto', attempt);
    const carryOut = async (steps: LinkPlan['steps']): Promise<void> => {
      for (const step of steps) {
        this.#options.log.info({ object: step.object, lines: step.lines }, 'links');
        await attempt(step.object, () => ipBatch(step.lines));
      }
    };
    await carryOut(planTaps(desired, await listLinks()));
    const links = await listLinks();
    const unplugged = new Set<string>();
    const refused = [...(await this.#translations.apply(desired, links)), ...(await applyVlanTags(join(this.#options.runDir, 'bpf'), desired, links))];
    for (const [id, message] of refused) {
      unplugged.add(id);
      problems.push({ object: `nic:${id}`, message });
    }
    const addresses = await listAddresses();
    const bridgedTo = [...this.#attachments.values()].flatMap((p) => [p.uplink, p.bridge]);
    this.#hostAddresses = [...new Set(bridgedTo.flatMap((n) => (addresses.get(n) ?? []).map((a) => a.replace(/\/.*/, ''))))];
    await carryOut(planLinks(desired, links, addresses, this.#attachments, unplugged).steps);
    this.#taps = desired.nics.flatMap((nic) =>
      links.some((l) => l.name === tapName(nic.id)) ? [{ tap: tapName(nic.id), attached: masterOf(nic, this.#attachments, unplugged) !== null }] : [],
    );
    await attempt('host', () => this.#sysctls(desired));
    await attempt('service', () => this.#configureService(desired));
    await this.#learn();
    await attempt('host', () => this.#applyRules(desired));
    await attempt('host', async () => {
      const bridges = [
        ...desired.networks.map((n) => BRIDGES[n.name] as string),
        ...new Set([...this.#attachments.values()].flatMap((p) => (p.ownInterfaces.length > 0 ? [p.bridge] : []))),
      ];
      await allowThroughFirewalls(await findFirewalls(), bridges);
    });
    this.#problems = problems;
  }

  async #sysctls(desired: DesiredState): Promise<void> {
    for (const n of desired.networks) {
      const dev = BRIDGES[n.name];
      await this.#sysctl.set(`net/ipv4/conf/${dev}/forwarding`, '1');
      await this.#sysctl.set(`net/ipv4/conf/${dev}/send_redirects`, '0');
      // a guest's own announcement of its address is noted (static addresses)
      await this.#sysctl.set(`net/ipv4/conf/${dev}/arp_accept`, '1');
      await this.#sysctl.set(`net/ipv4/conf/${dev}/accept_source_route`, '0');
      await this.#sysctl.set(`net/ipv6/conf/${dev}/accept_ra`, '0');
    }
    if (desired.networks.length === 0) return;
    for (const r of await listRoutes()) {
      if (r.dev !== 'lo' && !(Object.values(BRIDGES) as string[]).includes(r.dev)) await this.#sysctl.set(`net/ipv4/conf/${r.dev}/forwarding`, '1');
    }
  }

  async #configureService(desired: DesiredState): Promise<void> {
    const config = serviceConfigOf(desired, (id) => this.#guests.addressOf(id));
    const text = JSON.stringify(config);
    if (text === this.#serviceConfig) {
      this.#serviceStatus = await this.#service.call('status', {});
      if (this.#serviceConfig !== '') return;
    }
    if (config.networks.length === 0 && (await this.#service.callIfRunning('status', {})) === null) return;
    this.#serviceStatus = await this.#service.call('configure', config);
    this.#serviceConfig = text;
  }

  /** Finds addresses that guests set by themselves; true when one changed. */
  #learn(): Promise<boolean> {
    return this.#guests.look(this.#desired, this.#serviceStatus?.nics ?? [], this.#applied !== null);
  }

  #segments(desired: DesiredState): Segments {
    const own = (nic: DesiredNic): boolean => (this.#attachments.get(nic.id)?.ownInterfaces.length ?? 0) > 0;
    return { nics: new Set(desired.nics.filter((n) => n.type === 'bridge' && own(n)).map((n) => n.id)), hostAddresses: this.#hostAddresses };
  }

  async #applyRules(desired: DesiredState): Promise<void> {
    const ruled: RuledNic[] = desired.nics.map((nic) => ({
      nic,
      ip: this.#guests.addressOf(nic.id) ?? this.#serviceStatus?.nics.find((s) => s.id === nic.id)?.ip ?? null,
    }));
    const wanted = desired.networks.length === 0 ? removeTables() : renderRuleset(desired.networks, ruled, this.#segments(desired), this.#taps);
    // what was read back may already lack what another flushed meanwhile: missing tables are never what is wanted,
    // though they be what was read back
    const asWanted = (inForce: string): boolean => inForce === this.#applied?.inForce && (inForce === '') === (desired.networks.length === 0);
    if (this.#applied?.wanted !== wanted || !asWanted(await this.#rulesInForce())) {
      // what was claimed since the last look would go with the table that it stands in
      const unread = this.#applied === null ? [] : await this.#guests.unreadClaims();
      if (this.#applied !== null) await this.#bridged.poll(desired.nics);
      const claims = unread.length === 0 ? '' : `add element bridge anka claim { ${unread.join(', ')} }`;
      const kept = desired.networks.length === 0 ? [] : [claims, await keptElements(desired.nics, wanted)];
      const before = rulesetGeneration();
      await applyNft([wanted, ...kept].join('\n'));
      const inForce = await this.#rulesInForce();
      // ours is one transaction: where there was another, what was read back may be what that made of it, and the next
      // check writes it anew
      this.#applied = { wanted, inForce: rulesetGeneration() - before === 1 ? inForce : 'another program has changed the rules meanwhile' };
    }
    this.#stale.push(...this.#locations.update(ruled));
    await closeConnections(this.#stale, desired.networks);
    this.#stale = [];
  }

  /** Tells whether our tables are as they were; empty where one is missing. */
  async #rulesInForce(): Promise<string> {
    const tables = await Promise.all(TABLES.map(([f, t]) => listTable(f, t)));
    if (tables.includes(null)) return '';
    return createHash('sha256')
      .update(tables.map((t) => withoutDynamicElements(t ?? '')).join('\n'))
      .digest('hex');
  }

  /** Leases or claims may have changed: bring rules and names up to date, and tell. */
  async #look(): Promise<void> {
    if (!this.#hasDesired || this.#closed) return;
    const before = JSON.stringify(this.#serviceStatus?.nics);
    // a service that is gone, or new and not configured yet, knows no addresses: the rules stay as they are until it
    // does
    const status = this.#serviceConfig === '' ? null : await this.#service.callIfRunning('status', {}).catch(() => null);
    if (status === null || this.#serviceConfig === '') return;
    this.#serviceStatus = status;
    const learned = await this.#learn();
    if (!learned && JSON.stringify(this.#serviceStatus?.nics) === before) return;
    if (learned) await this.#configureService(this.#desired);
    await this.#applyRules(this.#desired);
    for (const w of this.#watchers) w();
  }

  #startWatching(): void {
    if (this.#timers.length > 0 || this.#closed) return;
    this.#monitors.start();
    const look = setInterval(() => void this.#enqueue(() => this.#lookAtNeighbours()), LOOK_MS);
    const safety = setInterval(() => {
      if (Date.now() - this.#lastCheck >= SAFETY_CHECK_MS || this.#uplinks.hasDrifted()) this.#soon();
    }, LOOK_MS);
    this.#timers = [look, safety];
    for (const t of this.#timers) t.unref();
  }

  async #lookAtNeighbours(): Promise<void> {
    if (!this.#hasDesired || this.#closed || this.#desired.nics.length === 0) return;
    const moved = await this.#bridged.poll(this.#desired.nics);
    if (!(await this.#learn())) {
      if (moved) for (const w of this.#watchers) w();
      return;
    }
    await this.#configureService(this.#desired);
    await this.#applyRules(this.#desired);
    for (const w of this.#watchers) w();
  }

  #stopWatching(): void {
    for (const t of this.#timers) clearInterval(t);
    this.#timers = [];
    if (this.#cue) clearTimeout(this.#cue);
    this.#cue = null;
    this.#monitors.stop();
  }

  #soon(): void {
    if (this.#closed || !this.#hasDesired) return;
    this.#cue ??= setTimeout(() => {
      this.#cue = null;
      void this.#enqueue(async () => {
        if (!this.#hasDesired || this.#closed) return;
        await this.#reconcile();
        for (const w of this.#watchers) w();
      });
    }, CUE_DELAY_MS);
  }
}

/** Makes the engine. Throws `noRights` or `missingProgram` where the host cannot carry it. */
export async function createKernelEngine(options: KernelEngineOptions): Promise<Engine> {
  if (process.getuid?.() !== 0) throw new AnkaError('noRights', 'the kernel engine needs root; run anka as root, or use the user engine');
  for (const [program, args] of [
    ['ip', ['-V']],
    ['nft', ['--version']],
  ] as const) {
    await run(program, args);
  }
  if ((await readSysctl('net/ipv4/ip_forward')) === null) throw new AnkaError('network', 'this kernel has no IPv4');
  return new KernelEngine(options);
}
