/** A VM's states and transitions as a table. The daemon follows it, and docs/lifecycle.md is generated from it. */
import { AnkaError } from '../lib/errors.ts';

export type State = 'stopped' | 'running' | 'suspended' | 'failed';
export type Command = 'start' | 'stop' | 'suspend' | 'reboot' | 'clone' | 'delete';

/** `next`: the new state. `same`: allowed without a change of state. `refuse`: why the command fails. */
type Transition = { next: State | 'deleted' } | { same: true } | { refuse: string };

export const TRANSITIONS: Record<State, Record<Command, Transition>> = {
  stopped: {
    start: { next: 'running' },
    stop: { same: true },
    suspend: { refuse: 'is stopped; only a running VM can be suspended' },
    reboot: { refuse: 'is stopped; start it instead' },
    clone: { same: true },
    delete: { next: 'deleted' },
  },
  running: {
    start: { same: true },
    stop: { next: 'stopped' },
    suspend: { next: 'suspended' },
    reboot: { same: true },
    clone: { same: true },
    delete: { next: 'deleted' },
  },
  suspended: {
    start: { next: 'running' },
    stop: { next: 'stopped' },
    suspend: { same: true },
    reboot: { refuse: 'is suspended; start it first' },
    clone: { same: true },
    delete: { next: 'deleted' },
  },
  failed: {
    start: { next: 'running' },
    stop: { next: 'stopped' },
    suspend: { refuse: 'has failed; only a running VM can be suspended' },
    reboot: { refuse: 'has failed; start it instead' },
    clone: { same: true },
    delete: { next: 'deleted' },
  },
};

/** The state that a command leads to. Throws `badState` if the table refuses it. */
export function transition(name: string, state: State, command: Command): State | 'deleted' {
  const entry = TRANSITIONS[state][command];
  if ('refuse' in entry) throw new AnkaError('badState', `${name} ${entry.refuse}`);
  return 'same' in entry ? state : entry.next;
}

/** The table as a mermaid state diagram. */
export function diagram(): string {
  const lines = ['stateDiagram-v2', '  [*] --> stopped: create'];
  for (const [state, commands] of Object.entries(TRANSITIONS)) {
    for (const [command, entry] of Object.entries(commands)) {
      if ('next' in entry) lines.push(`  ${state} --> ${entry.next === 'deleted' ? '[*]' : entry.next}: ${command}`);
    }
  }
  lines.push('  running --> failed: QEMU exits unexpectedly', '  running --> stopped: the guest powers off');
  return lines.join('\n');
}
