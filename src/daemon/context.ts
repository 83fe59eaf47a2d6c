/** What the daemon's parts share. */
import type { Engine } from '../engine/engine.ts';
import type { Paths } from '../host/paths.ts';
import type { RuleStore } from '../store/rules.ts';
import type { SettingStore } from '../store/settings.ts';
import type { VmRow, VmStore } from '../store/vms.ts';
import type { Machine, MachineRunner } from '../vm/machine.ts';
import type { EventLog } from './events.ts';
import type { Log } from './log.ts';

export interface Context {
  paths: Paths;
  log: Log;
  vms: VmStore;
  rules: RuleStore;
  settings: SettingStore;
  runner: MachineRunner;
  /** Running machines, by UUID. */
  machines: Map<string, Machine>;
  /** VMs whose card must be there although their machine does not run yet. */
  starting: Set<string>;
  events: EventLog;
  /** The engine that the setting asks for; made at first use. */
  engine(): Promise<Engine>;
}

/** What an event or a message calls a VM. */
export const vmName = (vm: VmRow): { uuid: string; name: string } => ({ uuid: vm.uuid, name: vm.name });
