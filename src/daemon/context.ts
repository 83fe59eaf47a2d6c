/** What all parts of the daemon share. */
import type { Engine } from '../engine/engine.ts';
import type { Paths } from '../host/paths.ts';
import type { LabelStore } from '../store/labels.ts';
import type { MountStore } from '../store/mounts.ts';
import type { RuleStore } from '../store/rules.ts';
import type { SettingStore } from '../store/settings.ts';
import type { TagStore } from '../store/tags.ts';
import type { VmRow, VmStore } from '../store/vms.ts';
import type { Machine, MachineRunner } from '../vm/machine.ts';
import type { EventLog } from './events.ts';
import type { Log } from './log.ts';
import type { StartGate } from './start-gate.ts';

export interface Context {
  paths: Paths;
  log: Log;
  vms: VmStore;
  rules: RuleStore;
  labels: LabelStore;
  tags: TagStore;
  mounts: MountStore;
  settings: SettingStore;
  runner: MachineRunner;
  /** Running machines, by UUID. */
  machines: Map<string, Machine>;
  starts: StartGate;
  events: EventLog;
  /** The engine of the setting `engine`, created on first use. */
  engine(): Promise<Engine>;
}

/** True for a VM that runs, or is being started or resumed. */
export const usesNetworks = (ctx: Context, uuid: string): boolean => ctx.machines.has(uuid) || ctx.starts.starting.has(uuid);

/** True while a VM uses the networks. */
export const networksInUse = (ctx: Context): boolean => ctx.machines.size > 0 || ctx.starts.starting.size > 0;

/** How events refer to a VM. */
export const vmName = (vm: VmRow): { uuid: string; name: string } => ({ uuid: vm.uuid, name: vm.name });
