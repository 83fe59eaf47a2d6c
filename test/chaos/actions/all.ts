/** All that may happen. */
import type { Action } from '../plan.ts';
import type { Engine } from '../site.ts';
import { COMMAND_ACTIONS } from './commands.ts';
import { HOST_FILE_ACTIONS } from './host-files.ts';
import { INTERFACE_ACTIONS } from './interfaces.ts';
import { KERNEL_STATE_ACTIONS } from './kernel-state.ts';
import { PROCESS_ACTIONS } from './processes.ts';

const ALL: Action[] = [...PROCESS_ACTIONS, ...INTERFACE_ACTIONS, ...KERNEL_STATE_ACTIONS, ...HOST_FILE_ACTIONS, ...COMMAND_ACTIONS];

export const actionsOf = (engine: Engine): Action[] => ALL.filter((a) => a.engine === undefined || a.engine === engine);
