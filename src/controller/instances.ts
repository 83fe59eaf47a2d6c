/**
 * The instances of this host, and the work on them.
 *
 * Theory of operation: each instance is advanced by one loop, which does the next step that instance.ts names until
 * there is none. Every change is on disk before the step after it begins, and every step may be repeated; so a
 * controller that was killed continues where it was. A clone has a name that only its own instance knows until the
 * clone's UUID is stored: a VM is never deleted by another name, and never one that is no instance's.
 *
 * A step that fails because the daemon does not answer, or because the disk is full, is tried again. Any other failure
 * puts the instance into Error; only the removal of a VM is tried until it succeeds.
 *
 * Limits: `capacity` VMs run; MAX_INSTANCES instances are open, those that wait for a free slot included, and as many
 * Terminated ones are listed.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RuleRequest, VmShow } from '../api/types.ts';
import { AnkaError, ankaError } from '../lib/errors.ts';
import {
  advance,
  agesTo,
  type Instance,
  type InstanceEvent,
  isOpen,
  LATEST,
  type Metadata,
  newInstance,
  nextStep,
  type Order,
  recovered,
  type Step,
  schedule,
  withoutOldest,
} from './instance.ts';
import type { InstanceFile } from './instance-file.ts';
import { runScript } from './script-run.ts';
import { cloneName, expandName, isCloneName, numberedName } from './vm-name.ts';
import type { Vms } from './vms.ts';

/** Open instances at most, and orders that wait included. */
export const MAX_INSTANCES = 100;
/** Pause before a step is repeated, ms: at first, and at most. */
const RETRY_MS = 500;
const MAX_RETRY_MS = 10_000;
/** How often a step other than a removal is repeated while the daemon does not answer. */
const MAX_RETRIES = 30;
/** How often ages are looked at, ms. */
const AGES_MS = 5000;
const DEFAULT_NAME = '$template_name-$ts';
/** The VM of an instance was deleted, but not by the controller. */
const LOST = "the VM was deleted by 'anka delete'";

/** What a client may change in an instance. */
export interface InstanceUpdate {
  name?: string;
  externalId?: string;
  metadata?: Metadata;
}

export interface InstanceLimits {
  /** VMs of instances that run at most. */
  capacity: number;
  nodeName: string;
  /** Host address of the rules that instances get; undefined: every IPv4 address. */
  hostIp: string | undefined;
}

/** Milliseconds since 1970: ages are those of dates in a file. */
const today = (): number => Date.now();

/** Errors that pass: the daemon restarts, or the disk is full. */
const passes = (cause: unknown): boolean => ['daemon', 'diskFull'].includes(ankaError(cause).kind);

export class Instances {
  readonly #file: InstanceFile;
  readonly #vms: Vms;
  readonly #limits: InstanceLimits;
  readonly #log: (line: string) => void;
  readonly #all = new Map<string, Instance>();
  /** The instances that a loop works on, with what ends their scripts. */
  readonly #loops = new Map<string, AbortController>();

  constructor(file: InstanceFile, vms: Vms, limits: InstanceLimits, log: (line: string) => void) {
    this.#file = file;
    this.#vms = vms;
    this.#limits = limits;
    this.#log = log;
  }

  /** Continues the work of the controller before. */
  start(): void {
    for (const i of this.#file.stored) this.#all.set(i.id, recovered(i, today()));
    for (const i of this.#all.values()) this.#work(i.id);
    this.#fill();
    setInterval(() => this.#age(), AGES_MS).unref();
  }

  get capacity(): number {
    return this.#limits.capacity;
  }

  all(): Instance[] {
    return [...this.#all.values()];
  }

  /** Null if there is none. */
  find(id: string): Instance | null {
    return this.#all.get(id) ?? null;
  }

  /** Whether a VM is an instance's, or soon will be. */
  isInstanceVm(vm: { uuid: string; name: string }): boolean {
    return isCloneName(vm.name) || this.all().some((i) => i.vm === vm.uuid);
  }

  /** Stores new instances, and returns their ids. Throws `poolExhausted` when there would be too many. */
  order(order: Order, count: number): string[] {
    const open = this.all().filter(isOpen).length;
    if (open + count > MAX_INSTANCES)
      throw new AnkaError('poolExhausted', `${open} instances are open, and ${MAX_INSTANCES} may be: terminate some, or try again later`);
    const created = Array.from({ length: count }, () => newInstance(randomUUID(), order, today()));
    this.#store(created);
    for (const i of created) this.#log(`instance ${i.id}: ${i.state}`);
    this.#fill();
    return created.map((i) => i.id);
  }

  /** False if there is no such instance. */
  update(id: string, change: InstanceUpdate): boolean {
    const i = this.#all.get(id);
    if (i) this.#store([{ ...i, ...change }]);
    return i !== undefined;
  }

  /** False if there is no such instance. */
  terminate(id: string): boolean {
    if (!this.#all.has(id)) return false;
    this.#apply(id, { type: 'terminate' });
    this.#loops.get(id)?.abort();
    this.#work(id);
    return true;
  }

  /** The daemon does not know the VM of this instance. */
  lost(id: string): void {
    this.#apply(id, { type: 'lost', message: LOST });
    this.#fill();
  }

  /** Starts what may start. */
  #fill(): void {
    for (const i of schedule(this.all(), this.#limits.capacity)) {
      this.#apply(i.id, { type: 'scheduled' });
      this.#work(i.id);
    }
  }

  #age(): void {
    try {
      for (const i of this.all()) {
        const next = agesTo(i, today());
        if (next === 'terminated') this.terminate(i.id);
        if (next === 'dropped') this.#drop(i.id);
      }
      this.#fill();
    } catch (cause) {
      this.#log(`the file of instances cannot be written: ${ankaError(cause).message}`); // tried again
    }
  }

  #drop(id: string): void {
    this.#file.save(this.all().filter((i) => i.id !== id));
    this.#all.delete(id);
  }

  /** Changes an instance. Throws, and changes nothing, if the file cannot be written. */
  #apply(id: string, event: InstanceEvent): void {
    const before = this.#all.get(id);
    if (!before) return;
    const after = advance(before, event, today());
    if (after === before) return;
    this.#store([after]);
    if (after.state !== before.state) this.#log(`instance ${id}: ${after.state}${after.message ? `: ${after.message}` : ''}`);
  }

  #store(changed: readonly Instance[]): void {
    const all = new Map(this.#all);
    for (const i of changed) all.set(i.id, i);
    const kept = withoutOldest([...all.values()], MAX_INSTANCES);
    this.#file.save(kept);
    this.#all.clear();
    for (const i of kept) this.#all.set(i.id, i);
  }

  /** Works on an instance until nothing is left to do. One loop at a time. */
  #work(id: string): void {
    if (this.#loops.has(id)) return;
    const abort = new AbortController();
    this.#loops.set(id, abort);
    void this.#loop(id, abort.signal).finally(() => {
      this.#loops.delete(id);
      const i = this.#all.get(id);
      if (i && nextStep(i) !== 'none') this.#work(id); // an event came with the last step
      this.#tryFill();
    });
  }

  #tryFill(): void {
    try {
      this.#fill();
    } catch (cause) {
      this.#log(`the file of instances cannot be written: ${ankaError(cause).message}`); // #age tries again
    }
  }

  async #loop(id: string, signal: AbortSignal): Promise<void> {
    let retries = 0;
    for (;;) {
      const i = this.#all.get(id);
      const step = i === undefined ? 'none' : nextStep(i);
      if (i === undefined || step === 'none') return;
      try {
        await this.#do(step, i, signal);
        retries = 0;
      } catch (cause) {
        const { message } = ankaError(cause);
        const mustSucceed = step === 'remove' || step === 'stop' || step === 'runScript';
        if (mustSucceed || (passes(cause) && retries < MAX_RETRIES)) {
          this.#log(`instance ${id}: ${step} failed, and is tried again: ${message}`);
          await sleep(Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** Math.min(retries++, 10)));
        } else await this.#record(id, { type: 'failed', message });
      }
    }
  }

  /** As `#apply`, until the file can be written. */
  async #record(id: string, event: InstanceEvent): Promise<void> {
    for (let retries = 0; ; retries++) {
      try {
        return this.#apply(id, event);
      } catch (cause) {
        this.#log(`the file of instances cannot be written, and is tried again: ${ankaError(cause).message}`);
        await sleep(Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** Math.min(retries, 10)));
      }
    }
  }

  async #do(step: Exclude<Step, 'none'>, i: Instance, signal: AbortSignal): Promise<void> {
    switch (step) {
      case 'clone':
        return this.#record(i.id, { type: 'cloned', vm: await this.#clone(i) });
      case 'configure':
        await this.#configure(i, i.vm as string);
        return this.#record(i.id, { type: 'configured' });
      case 'start':
        await this.#vms.start(i.vm as string);
        return this.#record(i.id, { type: 'running' });
      case 'runScript':
        return this.#runScript(i, signal);
      case 'stop':
        await this.#vms.stop(i.vm as string);
        return this.#record(i.id, { type: 'stopped' });
      case 'remove':
        await this.#remove(i);
        return this.#record(i.id, { type: 'removed' });
    }
  }

  /** The UUID of the clone, which may exist already, or be made for a request of the controller before. */
  async #clone(i: Instance): Promise<string> {
    const name = cloneName(i.id);
    for (;;) {
      const found = await this.#vms.show(name);
      if (found) return found.uuid;
      try {
        return await this.#vms.clone(i.templateId, name, i.tag === '' || i.tag === LATEST ? null : i.tag);
      } catch (cause) {
        if (!(cause instanceof AnkaError) || cause.kind !== 'vmExists') throw cause;
        await sleep(RETRY_MS);
      }
    }
  }

  async #configure(i: Instance, uuid: string): Promise<void> {
    const vm = await this.#vms.show(uuid);
    if (!vm) throw new AnkaError('vmNotFound', LOST);
    if (isCloneName(vm.name)) await this.#rename(i, vm);
    const size = { ...(i.cpus > 0 ? { cpu_count: i.cpus } : {}), ...(i.ram > 0 ? { ram_size: `${i.ram}M` } : {}) };
    if (vm.status !== 'running' && Object.keys(size).length > 0) await this.#vms.modify(uuid, size);
    for (const rule of rulesToAdd(i, vm, this.#limits.hostIp)) await this.#vms.forward(uuid, rule);
  }

  /** Gives the VM the name that the client asked for, or one that begins so. */
  async #rename(i: Instance, vm: VmShow): Promise<void> {
    const name = expandName(i.nameTemplate || DEFAULT_NAME, {
      templateName: i.templateName,
      templateId: i.templateId,
      nodeName: this.#limits.nodeName,
      now: today(),
    });
    for (const candidate of [name, numberedName(name, i.id)]) {
      try {
        return await this.#vms.modify(vm.uuid, { name: candidate });
      } catch (cause) {
        if (!(cause instanceof AnkaError) || !['vmExists', 'badValue'].includes(cause.kind)) throw cause;
      }
    }
    // neither is possible: it keeps the name of the clone
  }

  async #runScript(i: Instance, signal: AbortSignal): Promise<void> {
    const { script, vm } = i;
    if (!script || vm === null) return;
    const result = await runScript(vm, script, () => this.#record(i.id, { type: 'scriptBegun' }), signal);
    await this.#record(i.id, { type: 'scriptEnded', result });
  }

  /** Deletes the VM, also a clone whose UUID was not stored. */
  async #remove(i: Instance): Promise<void> {
    if (i.vm === null) await this.#vms.settled(i.templateId);
    const uuid = i.vm ?? (await this.#vms.show(cloneName(i.id)))?.uuid;
    if (uuid === undefined) return;
    await this.#vms.stop(uuid);
    await this.#vms.remove(uuid);
  }
}

/**
 * The rules that the order asks for, and one for ssh, unless the template has rules for these ports. `hostIp`: where
 * they listen, unless at every IPv4 address.
 */
export function rulesToAdd(order: Pick<Order, 'rules'>, vm: Pick<VmShow, 'network' | 'port_forwarding'>, hostIp?: string): RuleRequest[] {
  if (vm.network?.type !== 'shared' && vm.network?.type !== 'host') return [];
  const present = vm.port_forwarding.map((r) => ({ name: r.name, guestPort: r.guest_port, protocol: r.protocol }));
  const added: RuleRequest[] = [];
  for (const r of [...order.rules, { name: 'ssh', guestPort: 22, hostPort: 0, protocol: 'tcp' as const }]) {
    if (present.some((p) => p.guestPort === r.guestPort && p.protocol === r.protocol)) continue;
    const name = present.some((p) => p.name === r.name) ? `${r.name}-${r.protocol}-${r.guestPort}` : r.name;
    present.push({ name, guestPort: r.guestPort, protocol: r.protocol });
    added.push({ name, guest_port: r.guestPort, host_port: r.hostPort, protocol: r.protocol, ...(hostIp === undefined ? {} : { host_ip: hostIp }) });
  }
  return added;
}
