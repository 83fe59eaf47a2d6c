/** The daemon's side of the API: joins the parts. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AnkaService } from '../api/service.ts';
import type { SettingValue, VmShow } from '../api/types.ts';
import type { ObservedState } from '../engine/engine.ts';
import { AnkaError } from '../lib/errors.ts';
import { checkSetting, findSetting } from '../lib/settings.ts';
import { ensureBaseImage, findBaseImage } from '../vm/base-image.ts';
import { machineFiles } from '../vm/qemu-args.ts';
import { formatIpv4, formatSubnet } from '../wire/address.ts';
import { Captures } from './capture.ts';
import type { Context } from './context.ts';
import { desiredNetworks, desiredState } from './desired.ts';
import { explainPacket } from './explain.ts';
import { metricsText } from './metrics.ts';
import { networks } from './networks.ts';
import type { Reconciler } from './reconcile.ts';
import { allSettings, settingValue } from './settings.ts';
import { mtuNotice } from './vms/card-mtu.ts';
import { addCard, cardChange, changeCard, removeCard, replug } from './vms/network-card.ts';
import { addRule, deleteRule } from './vms/port-forwarding.ts';
import { describe, listEntry, show } from './vms/show.ts';
import type { Vms } from './vms/vms.ts';

export interface DaemonFacts {
  version: string;
  started: number;
  /** Ends the daemon after the answer was sent. */
  end(): void;
}

/** Settings whose change reaches the networks at once. */
const NETWORK_SETTINGS = ['dns_servers', 'bridge_method'];
/** Settings after whose change the guests of these types need another lease. */
const RENUMBERED: Record<string, readonly string[]> = { shared_subnet: ['shared'], host_subnet: ['host'] };

export function createService(ctx: Context, vms: Vms, reconciler: Reconciler, facts: DaemonFacts): AnkaService {
  /** What is seen; null when nothing runs, so that no engine is started for a look. */
  const observed = async (): Promise<ObservedState | null> => {
    if (ctx.machines.size === 0) return null;
    return reconciler.observe().catch((e: Error) => {
      ctx.log.warn({ error: e.message }, 'observing');
      return null;
    });
  };
  /** A network changed under the running guests of these types: they ask for their addresses anew. */
  const renumber = async (types: readonly string[]): Promise<void> => {
    if (ctx.machines.size === 0) return;
    await reconciler.apply();
    const moved = ctx.vms.all().filter((v) => v.hasCard && types.includes(v.type) && ctx.machines.has(v.uuid));
    await Promise.all(
      moved.map((v) =>
        vms
          .exclusive(v.uuid, async (vm) => {
            const machine = ctx.machines.get(vm.uuid);
            if (machine) ctx.log.info({ vm: vm.name, outcome: await replug(ctx, reconciler, vm, machine, () => {}) }, 'network changed');
          })
          .catch((e: Error) => ctx.log.warn({ vm: v.name, error: e.message }, 'network changed')),
      ),
    );
  };
  const changed = async (key: string): Promise<void> => {
    const types = RENUMBERED[key];
    if (types) await renumber(types);
    else if (NETWORK_SETTINGS.includes(key) && ctx.machines.size > 0) await reconciler.apply();
  };
  /** A setting as it is now, with what the user should know of it. */
  const stored = (key: string): SettingValue => {
    const notice = key === 'mtu' ? mtuNotice(ctx) : '';
    return { ...settingValue(ctx.settings, key), ...(notice === '' ? {} : { notice }) };
  };
  const captures = new Captures();
  const shown = async (ref: string): Promise<VmShow> => show(ctx, vms.find(ref), await observed());

  return {
    async status() {
      const all = ctx.vms.all();
      const engine = await ctx.engine().catch(() => null);
      return {
        pid: process.pid,
        version: facts.version,
        uptime: Math.floor((Date.now() - facts.started) / 1000),
        engine: engine?.name ?? 'kernel',
        socket: ctx.paths.socket,
        log: ctx.paths.log,
        vms: all.length,
        running: ctx.machines.size,
      };
    },
    shutdown: () => facts.end(),
    onEvent: (listener) => ctx.events.on(listener),
    metrics: async () => metricsText(ctx, await observed()),
    async list() {
      const state = await observed();
      return ctx.vms
        .all()
        .filter((v) => v.phase === 'ready')
        .map((v) => listEntry(v, state));
    },
    create: (request, progress) => vms.create(request, progress),
    show: shown,
    describe: async (ref) => describe(ctx, vms.find(ref)),
    async guest(ref) {
      const vm = vms.find(ref);
      const ip = vm.status === 'running' ? ((await observed())?.nics.find((n) => n.id === vm.uuid)?.ip ?? null) : null;
      const base = vm.app ? null : await findBaseImage(ctx.paths.baseImage);
      const stream = ctx.machines.has(vm.uuid) && vm.hasCard ? ((await ctx.engine()).streamSocket?.(vm.uuid) ?? null) : null;
      return {
        uuid: vm.uuid,
        user: 'anka',
        port: 22,
        identity_file: base?.identityFile ?? join(ctx.paths.state, 'id_ed25519'),
        console: machineFiles(ctx.paths.vmRun(vm.uuid)).console,
        ...(ip === null ? {} : { address: formatIpv4(ip) }),
        ...(stream === null ? {} : { stream_socket: stream }),
      };
    },
    modify: (ref, request) => vms.modify(ref, request),
    async start(ref, settings, progress) {
      await vms.start(ref, settings, progress);
      return shown(ref);
    },
    stop: (ref, force, settings, progress) => vms.stop(ref, force, settings, progress),
    suspend: (ref, progress) => vms.suspend(ref, progress),
    reboot: (ref, force, settings, progress) => vms.reboot(ref, force, settings, progress),
    clone: (ref, name, progress) => vms.clone(ref, name, progress),
    async wait(ref, until, timeoutSeconds) {
      const end = Date.now() + timeoutSeconds * 1000;
      for (;;) {
        const now = await shown(ref);
        if (until === 'ip' ? now.ip !== undefined : now.status !== 'running') return now;
        if (until === 'ip' && now.status !== 'running')
          throw new AnkaError('vmNotRunning', `${now.name} is ${now.status}${now.message ? `: ${now.message}` : ''}`);
        if (until === 'ip' && (now.network === undefined || now.network.type === 'disconnected'))
          throw new AnkaError(
            'network',
            `${now.name} ${now.network ? 'is disconnected' : 'has no network card'}, and so has no address; 'anka console ${now.name}' leads into it`,
          );
        if (Date.now() >= end) throw new AnkaError('timeout', `${now.name} has no address after ${timeoutSeconds} s${now.message ? `: ${now.message}` : ''}`);
        await sleep(200);
      }
    },
    delete: (ref, progress) => vms.delete(ref, progress),
    addCard: (ref, request, settings, progress) =>
      vms.exclusive(ref, async (vm) => ({ message: await addCard(ctx, reconciler, vm, request, await observed(), settings, progress) })),
    setCard: (ref, request, settings, progress) =>
      vms.exclusive(ref, async (vm) => ({
        message: await changeCard(ctx, reconciler, vm, cardChange(ctx, vm, request, await observed()), settings, progress),
      })),
    deleteCard: (ref) => vms.exclusive(ref, (vm) => removeCard(ctx, reconciler, vm)),
    addRule: (ref, request, settings) =>
      vms.exclusive(ref, async (vm) => {
        const rule = await addRule(ctx, reconciler, vm, request, settings);
        if (ctx.machines.has(vm.uuid)) await reconciler.apply();
        return { host_port: rule.hostPort };
      }),
    deleteRule: (ref, name) =>
      vms.exclusive(ref, async (vm) => {
        deleteRule(ctx, vm, name);
        if (ctx.machines.has(vm.uuid)) await reconciler.apply();
      }),
    settings: async (overrides) => allSettings(ctx.settings, overrides),
    setting: async (key, overrides) => settingValue(ctx.settings, key, overrides),
    async setSetting(key, value) {
      const checked = checkSetting(key, value);
      if (checked === settingValue(ctx.settings, key).value) {
        ctx.settings.put(key, checked);
        return settingValue(ctx.settings, key);
      }
      if (key === 'shared_subnet' || key === 'host_subnet') await demandFreeSubnet(ctx, key, checked);
      if (key === 'engine') await changeEngine(ctx, () => ctx.settings.put(key, checked));
      else ctx.settings.put(key, checked);
      ctx.events.emit('config.changed', `${key} = ${checked}`);
      await changed(key);
      return stored(key);
    },
    async resetSetting(key) {
      const normal = findSetting(key).default;
      const differs = settingValue(ctx.settings, key).value !== normal;
      if (differs && (key === 'shared_subnet' || key === 'host_subnet')) await demandFreeSubnet(ctx, key, normal);
      if (differs && key === 'engine') await changeEngine(ctx, () => ctx.settings.delete(key));
      else ctx.settings.delete(key);
      ctx.events.emit('config.changed', `${key} is back to its default`);
      if (differs) await changed(key);
      return stored(key);
    },
    networks: async () => networks(ctx, await observed()),
    async resetNetworks() {
      if (ctx.machines.size > 0) {
        const names = [...ctx.machines.keys()].map((u) => ctx.vms.find(u)?.name ?? u);
        throw new AnkaError(
          'badState',
          `${names.join(', ')} ${names.length > 1 ? 'are' : 'is'} running; stop ${names.length > 1 ? 'them' : 'it'} first ('anka stop --all')`,
        );
      }
      return { removed: await (await ctx.engine()).reset() };
    },
    doctor: async () => (await ctx.engine()).doctor(),
    explain: (ref, question) => explainPacket(ctx, vms.find(ref), question, observed),
    capture: (ref, side, filter) => captures.begin(ctx, vms.find(ref), side, filter),
    endCapture: async (id) => captures.end(id),
    async buildBaseImage(progress) {
      await ensureBaseImage(ctx.paths.baseImage, progress);
    },
  };
}

/**
 * Another engine carries on at once; what was stored is put back when it cannot run here. Cards of VMs that run, or are
 * suspended, are made for one engine.
 */
async function changeEngine(ctx: Context, store: () => void): Promise<void> {
  const bound = ctx.vms.all().flatMap((v) => (ctx.machines.has(v.uuid) || v.status === 'suspended' ? v.name : []));
  if (bound.length > 0)
    throw new AnkaError('badState', `running or suspended: ${bound.join(', ')}; stop them before the engine is changed ('anka stop ${bound[0]}')`);
  const before = settingValue(ctx.settings, 'engine').value;
  await ctx.engine().catch(() => null); // so that it is there to be taken away
  store();
  try {
    await ctx.engine();
  } catch (cause) {
    ctx.settings.put('engine', before);
    throw cause;
  }
}

/**
 * A subnet that clashes with a route of the host, or with our other network, is refused with a free one proposed (B24).
 */
async function demandFreeSubnet(ctx: Context, key: string, value: string): Promise<void> {
  const networks = desiredNetworks(ctx, { [key]: value });
  const reserved = ctx.vms.all().find((v) => v.reservedIp !== null && `${v.type}_subnet` === key);
  if (reserved)
    throw new AnkaError(
      'addressTaken',
      `${formatIpv4(reserved.reservedIp as number)} is reserved for VM ${reserved.name}; 'anka modify ${reserved.name} set network-card --ip auto' gives it up first`,
    );
  const engine = await ctx.engine();
  const name = key.replace('_subnet', '');
  const problem = (await engine.validate({ ...desiredState(ctx), networks })).find((p) => p.object === `network:${name}`);
  if (problem) throw new AnkaError('subnetClash', problem.message);
  const [a, b] = networks as [(typeof networks)[0], (typeof networks)[0]];
  const overlap =
    a.subnet.base >= b.subnet.base ? a.subnet.base < b.subnet.base + 2 ** (32 - b.subnet.prefix) : b.subnet.base < a.subnet.base + 2 ** (32 - a.subnet.prefix);
  if (overlap)
    throw new AnkaError(
      'subnetClash',
      `${value} clashes with the ${name === 'shared' ? 'host' : 'shared'} network's ${formatSubnet(name === 'shared' ? b.subnet : a.subnet)}; choose another`,
    );
}
