/**
 * The life of a VM as a table: what each command does in each state. The daemon follows it, and docs/lifecycle.md is
 * drawn from it.
 */
import { AnkaError } from '../lib/errors.ts';

export type State = 'stopped' | 'running' | 'suspended' | 'failed';
export type Command = 'start' | 'stop' | 'suspend' | 'reboot' | 'clone' | 'delete';

/** Next state; `same` = allowed, nothing changes; a string in `refuse` = why not. */
type Cell = { next: State | 'gone' } | { same: true } | { refuse: string };

export const TRANSITIONS: Record<State, Record<Command, Cell>> = {
  stopped: {
    start: { next: 'running' },
    stop: { same: true },
    suspend: { refuse: 'is stopped; only a running VM can be suspended' },
    reboot: { refuse: 'is stopped; start it instead' },
    clone: { same: true },
    delete: { next: 'gone' },
  },
  running: {
    start: { same: true },
    stop: { next: 'stopped' },
    suspend: { next: 'suspended' },
    reboot: { same: true },
    clone: { same: true },
    delete: { next: 'gone' },
  },
  suspended: {
    start: { next: 'running' },
    stop: { next: 'stopped' },
    suspend: { same: true },
    reboot: { refuse: 'is suspended; start it first' },
    clone: { same: true },
    delete: { next: 'gone' },
  },
  failed: {
    start: { next: 'running' },
    stop: { next: 'stopped' },
    suspend: { refuse: 'has failed; only a running VM can be suspended' },
    reboot: { refuse: 'has failed; start it instead' },
    clone: { same: true },
    delete: { next: 'gone' },
  },
};

/** What a command leads to. Throws `badState` with the VM's name when the table refuses. */
export function transition(name: string, state: State, command: Command): State | 'gone' {
  const cell = TRANSITIONS[state][command];
  if ('refuse' in cell) throw new AnkaError('badState', `${name} ${cell.refuse}`);
  return 'same' in cell ? state : cell.next;
}

/** The table as a mermaid state diagram. */
export function diagram(): string {
  const lines = ['stateDiagram-v2', '  [*] --> stopped: create'];
  for (const [state, row] of Object.entries(TRANSITIONS)) {
    for (const [command, cell] of Object.entries(row)) {
      if ('next' in cell) lines.push(`  ${state} --> ${cell.next === 'gone' ? '[*]' : cell.next}: ${command}`);
    }
  }
  lines.push('  running --> failed: QEMU dies', '  running --> stopped: the guest powers off');
  return lines.join('\n');
}
