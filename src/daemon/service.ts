/** The daemon's side of the API: each call of `AnkaService`, passed to the file that carries it out. */

import type { AnkaService } from '../api/service.ts';
import type { VmShow } from '../api/types.ts';
import type { NicStats, ObservedState } from '../engine/engine.ts';
import { monotonicMs } from '../lib/clock.ts';
import { AnkaError } from '../lib/errors.ts';
import { ensureBaseImage } from '../vm/base-image.ts';
import { Captures } from './capture.ts';
import { resetSetting, setSetting } from './change-setting.ts';
import { usesNetworks } from './context.ts';
import { nameFindings } from './doctor.ts';
import { explainPacket } from './explain.ts';
import { guestAccess, waitFor } from './guest.ts';
import { LoginTurns } from './login-turns.ts';
import { metricsText } from './metrics.ts';
import { Mounts } from './mounts/mounts.ts';
import { networks } from './networks.ts';
import { type ProcessHealth, processFindings, processHealth } from './process-health.ts';
import { allSettings, settingValue } from './settings.ts';
import { cardChange } from './vms/card-request.ts';
import type { VmContext } from './vms/context.ts';
import { cloneVm, createVm, modifyVm } from './vms/create.ts';
import { deleteVm } from './vms/delete.ts';
import { addCard, changeCard, removeCard } from './vms/network-card.ts';
import { addRule, deleteRule, renameRule } from './vms/port-forwarding.ts';
import { describe, listEntry, show } from './vms/show.ts';
import { startVm } from './vms/start.ts';
import { forceStop, rebootVm, stopVm, suspendVm } from './vms/stop.ts';
import { deleteTag, restoreTag, saveTag, shownTags } from './vms/tags.ts';

export interface DaemonProcess {
  version: string;
  /** By `monotonicMs`. */
  started: number;
  /** Errors that nothing handled. */
  errors: { readonly total: number };
  /** Stops the daemon once the answer is sent. */
  shutdown(): void;
}

/** What the engine observes; null while no VM runs, or if the engine fails. */
type Observe = () => Promise<ObservedState | null>;

export function createService(ctx: VmContext, daemon: DaemonProcess): AnkaService {
  const observe: Observe = async () => {
    if (ctx.machines.size === 0) return null; // no need to start an engine
    return ctx.reconciler.observe().catch((e: Error) => {
      ctx.log.warn({ error: e.message }, 'cannot observe the networks');
      return null;
    });
  };
  const logins = new LoginTurns();
  const mounts = new Mounts(ctx, { turns: logins, access: async (vm) => guestAccess(ctx, vm, await observe()) });
  void mounts.recover().catch((e: Error) => ctx.log.error({ error: e.stack }, 'cannot recover the shared directories'));
  return {
    ...hostCalls(ctx, daemon, observe),
    ...settingCalls(ctx),
    ...vmCalls(ctx, observe, logins, mounts),
    ...tagCalls(ctx),
    ...mountCalls(ctx, mounts),
    ...cardCalls(ctx, observe),
  };
}

/** A mount waits for its guest, so it is no operation of the VM's queue: else it would delay a stop. */
function mountCalls({ queue }: VmContext, mounts: Mounts): Pick<AnkaService, 'mounts' | 'mount' | 'unmount'> {
  return {
    mounts: async (ref) => mounts.list(queue.find(ref)),
    mount: async (ref, request, progress) => mounts.add(queue.find(ref), request, progress),
    unmount: async (ref, mount) => mounts.remove(queue.find(ref), mount),
  };
}

type HostCall = 'status' | 'shutdown' | 'onEvent' | 'metrics' | 'networks' | 'resetNetworks' | 'doctor' | 'buildBaseImage';

function hostCalls(ctx: VmContext, daemon: DaemonProcess, observe: Observe): Pick<AnkaService, HostCall> {
  const stats = async (): Promise<NicStats[]> => (ctx.machines.size === 0 ? [] : (await ctx.engine()).stats());
  const health = (): Promise<ProcessHealth[]> => processHealth(ctx, daemon.errors.total);
  return {
    async status() {
      const engine = await ctx.engine().catch(() => null);
      return {
        pid: process.pid,
        version: daemon.version,
        uptime: Math.floor((monotonicMs() - daemon.started) / 1000),
        engine: engine?.name ?? 'kernel',
        socket: ctx.paths.socket,
        log: ctx.paths.log,
        vms: ctx.vms.all().length,
        running: ctx.machines.size,
        unexpected_errors: (await health()).reduce((sum, p) => sum + p.unexpectedErrors, 0),
      };
    },
    shutdown: () => daemon.shutdown(),
    onEvent: (listener) => ctx.events.on(listener),
    metrics: async () => metricsText(ctx, await observe(), await stats(), await health()),
    networks: async () => networks(ctx, await observe()),
    resetNetworks: () => ctx.starts.close(() => resetNetworks(ctx)),
    doctor: async () => [...(await (await ctx.engine()).doctor()), ...nameFindings(ctx.vms.all()), ...processFindings(await health())],
    async buildBaseImage(progress) {
      await ensureBaseImage(ctx.paths.baseImage, progress);
    },
  };
}

async function resetNetworks(ctx: VmContext): Promise<{ removed: string[] }> {
  const running = ctx.vms.all().flatMap((v) => (usesNetworks(ctx, v.uuid) ? v.name : []));
  if (running.length > 0)
    throw new AnkaError('badState', `networks cannot be reset while VMs run or start: ${running.join(', ')}; run 'anka stop --all' first`);
  await ctx.reconciler.settled(); // cards of VMs that exited may be about to be detached
  return { removed: await (await ctx.engine()).reset() };
}

function settingCalls(ctx: VmContext): Pick<AnkaService, 'settings' | 'setting' | 'setSetting' | 'resetSetting'> {
  return {
    settings: async (overrides) => allSettings(ctx.settings, overrides),
    setting: async (key, overrides) => settingValue(ctx.settings, key, overrides),
    setSetting: (key, value) => setSetting(ctx, key, value),
    resetSetting: (key) => resetSetting(ctx, key),
  };
}

type VmCall = 'list' | 'create' | 'show' | 'describe' | 'guest' | 'login' | 'modify' | 'start' | 'stop' | 'suspend' | 'reboot' | 'clone' | 'wait' | 'delete';

function vmCalls(ctx: VmContext, observe: Observe, logins: LoginTurns, mounts: Mounts): Pick<AnkaService, VmCall> {
  const { queue } = ctx;
  const shown = async (ref: string): Promise<VmShow> => show(ctx, queue.find(ref), await observe());
  return {
    async list() {
      const observed = await observe();
      return ctx.vms
        .all()
        .filter((v) => v.phase === 'ready')
        .map((v) => listEntry(v, observed));
    },
    create: (request, progress) => createVm(ctx, request, progress),
    show: shown,
    describe: async (ref) => describe(ctx, queue.find(ref)),
    guest: async (ref) => guestAccess(ctx, queue.find(ref), await observe()),
    login(ref) {
      const { uuid } = queue.find(ref);
      const { granted, end } = logins.take(uuid);
      return { access: granted.then(async () => guestAccess(ctx, queue.find(uuid), await observe())), end };
    },
    modify: (ref, request) => queue.exclusive(ref, (vm) => modifyVm(ctx, vm, request)),
    async start(ref, settings, progress) {
      await queue.exclusive(ref, (vm) => startVm(ctx, vm, { settings, progress }));
      return shown(ref);
    },
    async stop(ref, force, settings, progress) {
      const { uuid } = queue.find(ref);
      await (force ? forceStop(ctx, ref, { settings, progress }) : queue.exclusive(ref, (vm) => stopVm(ctx, vm, false, { settings, progress })));
      mounts.endRun(uuid);
    },
    suspend: (ref, progress) => queue.exclusive(ref, (vm) => suspendVm(ctx, vm, progress)),
    reboot: (ref, force, settings, progress) => queue.exclusive(ref, (vm) => rebootVm(ctx, vm, force, { settings, progress })),
    clone: (ref, name, tag, progress) => queue.exclusive(ref, (vm) => cloneVm(ctx, vm, { name, tag }, progress)),
    wait: (ref, until, timeoutSeconds) => waitFor(() => shown(ref), until, timeoutSeconds),
    delete: (ref, progress) => queue.exclusive(ref, (vm) => deleteVm(ctx, vm, progress)),
  };
}

function tagCalls(ctx: VmContext): Pick<AnkaService, 'tags' | 'saveTag' | 'restoreTag' | 'deleteTag'> {
  const { queue } = ctx;
  return {
    tags: async (ref) => shownTags(ctx, queue.find(ref)),
    saveTag: (ref, request, progress) => queue.exclusive(ref, (vm) => saveTag(ctx, vm, request, progress)),
    restoreTag: (ref, tag, progress) => queue.exclusive(ref, (vm) => restoreTag(ctx, vm, tag, progress)),
    deleteTag: (ref, tag) => queue.exclusive(ref, (vm) => deleteTag(ctx, vm, tag)),
  };
}

type CardCall = 'addCard' | 'setCard' | 'deleteCard' | 'addRule' | 'renameRule' | 'deleteRule' | 'explain' | 'capture' | 'endCapture';

function cardCalls(ctx: VmContext, observe: Observe): Pick<AnkaService, CardCall> {
  const { queue } = ctx;
  const captures = new Captures();
  return {
    addCard: (ref, request, settings, progress) =>
      queue.exclusive(ref, async (vm) => ({ message: await addCard(ctx, vm, request, await observe(), { settings, progress }) })),
    setCard: (ref, request, settings, progress) =>
      queue.exclusive(ref, async (vm) => {
        const change = cardChange(ctx, vm, request, await observe());
        return { message: await changeCard(ctx, vm, change, { settings, progress }) };
      }),
    deleteCard: (ref) => queue.exclusive(ref, (vm) => removeCard(ctx, vm)),
    addRule: (ref, request, settings) =>
      queue.exclusive(ref, async (vm) => {
        const rule = await addRule(ctx, vm, request, settings);
        if (ctx.machines.has(vm.uuid)) await ctx.reconciler.apply();
        return { host_port: rule.hostPort };
      }),
    renameRule: (ref, name, newName) =>
      queue.exclusive(ref, async (vm) => {
        renameRule(ctx, vm, name, newName);
        if (ctx.machines.has(vm.uuid)) await ctx.reconciler.apply();
      }),
    deleteRule: (ref, name) =>
      queue.exclusive(ref, async (vm) => {
        deleteRule(ctx, vm, name);
        if (ctx.machines.has(vm.uuid)) await ctx.reconciler.apply();
      }),
    explain: (ref, question) => explainPacket(ctx, queue.find(ref), question, observe),
    capture: (ref, side, filter) => captures.begin(ctx, queue.find(ref), side, filter),
    endCapture: (id) => captures.end(id),
  };
}
