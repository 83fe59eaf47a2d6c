/**
 * One instance: a clone of a template VM, ordered by a client of the controller. Its states, and what comes next.
 *
 * Theory of operation: `advance` is the whole table of transitions, and `nextStep` the work that an instance needs in
 * its present state. The caller stores each new state before it does the next step, so a step may be repeated after a
 * crash: every step can be. An event that has no meaning in a state changes nothing, as a client may order the end of
 * an instance while a step runs.
 *
 *     Scheduling ─scheduled→ Pulling ─running→ Started
 *     Pulling, Started ─a monitored script failed→ Error, or Stopping ─stopped→ Error
 *     Scheduling, Pulling ─failed→ Error
 *     Scheduling ─terminate→ Terminated
 *     Pulling, Started, Stopping, Error ─terminate→ Terminating ─removed→ Terminated
 *     Pulling, Started, Stopping ─lost→ Terminated
 *
 * Limits: the names of the states are those of Anka's controller, as its clients compare them.
 */

/** The tag that stands for the present state of a template. */
export const LATEST = 'latest';

export type InstanceState = 'Scheduling' | 'Pulling' | 'Started' | 'Stopping' | 'Terminating' | 'Terminated' | 'Error';

/** What a startup script left. */
export interface ScriptResult {
  /** The script's exit status; -1 if it has none. */
  return_code: number;
  did_timeout: boolean;
  /** The ends of both outputs. */
  stdout: string;
  stderr: string;
  /** Why the script did not run, or not to its end. */
  errors: string[];
}

export interface StartupScript {
  /** Base64; empty once the script has ended, as it may hold credentials. */
  text: string;
  /** Run it once the guest's network works, not as soon as its ssh does. */
  waitNetwork: boolean;
  /** The instance is Started only after the script's success. */
  monitored: boolean;
  /** Seconds; for a monitored script. */
  timeout: number;
  /** What becomes of the VM when a monitored script fails. */
  onFailure: 'stop' | 'keep' | 'delete';
  progress: 'waiting' | 'running' | 'ended';
}

/** A forwarded port that an order asks for. A `hostPort` of 0 is assigned automatically. */
export interface OrderedRule {
  name: string;
  guestPort: number;
  hostPort: number;
  protocol: 'tcp' | 'udp';
}

export type Metadata = Record<string, string | number | boolean>;

/** What a client ordered. */
export interface Order {
  templateId: string;
  templateName: string;
  tag: string;
  /** Name of the instance; not unique. Empty: none. */
  name: string;
  /** The client's own id of the instance; not unique. Empty: none. */
  externalId: string;
  groupId: string;
  /** From 1 to 10000; the lowest starts first. */
  priority: number;
  /** Template of the VM's name; empty: the default. */
  nameTemplate: string;
  /** 0: as the template. */
  cpus: number;
  /** MiB; 0: as the template. */
  ram: number;
  rules: OrderedRule[];
  metadata: Metadata;
  script: StartupScript | null;
}

export interface Instance extends Order {
  id: string;
  state: InstanceState;
  /** Why it is in Error or Terminated; empty otherwise. */
  message: string;
  /** UUID of its VM; null before the clone is complete, and after the VM was deleted. */
  vm: string | null;
  /** How far its VM is. */
  stage: 'none' | 'cloned' | 'configured' | 'running' | 'stopped';
  /** Error: its VM is to be deleted. */
  discard: boolean;
  result: ScriptResult | null;
  /** Milliseconds since 1970: of the order, and of the last change of state. */
  created: number;
  updated: number;
}

export type InstanceEvent =
  | { type: 'scheduled' | 'configured' | 'running' | 'scriptBegun' | 'stopped' | 'terminate' | 'removed' }
  | { type: 'cloned'; vm: string }
  | { type: 'scriptEnded'; result: ScriptResult }
  | { type: 'failed' | 'lost'; message: string };

/** Work on an instance; `none`: nothing to do until the next event. */
export type Step = 'none' | 'clone' | 'configure' | 'start' | 'runScript' | 'stop' | 'remove';

/** How long Terminated instances are listed, ms. */
export const TERMINATED_KEPT_MS = 60_000;
/** How long an instance stays in Error, ms. Some clients never end one that failed. */
export const ERROR_KEPT_MS = 24 * 3_600_000;
/** The restart of the controller ended the connection of a script, and with it the script. */
const INTERRUPTED = 'the controller was restarted while the script ran';

export function newInstance(id: string, order: Order, now: number): Instance {
  return { ...order, id, state: 'Scheduling', message: '', vm: null, stage: 'none', discard: false, result: null, created: now, updated: now };
}

/** The instance after an event at `now` (ms since 1970); the same object if the event changes nothing. */
export function advance(i: Instance, event: InstanceEvent, now: number): Instance {
  const change = changeBy(i, event);
  if (change === null) return i;
  return { ...i, ...change, updated: change.state === undefined || change.state === i.state ? i.updated : now };
}

function changeBy(i: Instance, event: InstanceEvent): Partial<Instance> | null {
  const pulling = i.state === 'Pulling';
  switch (event.type) {
    case 'scheduled':
      return i.state === 'Scheduling' ? { state: 'Pulling' } : null;
    case 'cloned':
      return pulling || i.state === 'Terminating' ? { vm: event.vm, stage: 'cloned' } : null;
    case 'configured':
      return pulling ? { stage: 'configured' } : null;
    case 'running':
      return pulling ? { stage: 'running', ...(waitsForScript(i) ? {} : { state: 'Started' as const }) } : null;
    case 'scriptBegun':
      return i.script && (pulling || i.state === 'Started') ? { script: { ...i.script, progress: 'running' } } : null;
    case 'scriptEnded':
      return i.script && i.script.progress !== 'ended' ? afterScript(i, i.script, event.result) : null;
    case 'failed':
      return pulling || i.state === 'Scheduling' ? { state: 'Error', message: event.message, discard: true } : null;
    case 'stopped':
      return i.state === 'Stopping' ? { state: 'Error', stage: 'stopped' } : null;
    case 'terminate':
      if (i.state === 'Terminating' || i.state === 'Terminated') return null;
      return { state: i.state === 'Scheduling' ? 'Terminated' : 'Terminating', message: '' };
    case 'removed':
      return i.state === 'Terminating'
        ? { state: 'Terminated', vm: null, stage: 'none' }
        : i.state === 'Error'
          ? { vm: null, stage: 'none', discard: false }
          : null;
    case 'lost':
      if (i.vm === null || i.state === 'Terminating') return null;
      return { vm: null, stage: 'none', discard: false, ...(i.state === 'Error' ? {} : { state: 'Terminated' as const, message: event.message }) };
  }
}

/** Whether the instance is Started only after its script. */
function waitsForScript(i: Instance): boolean {
  return i.script !== null && i.script.monitored && i.script.progress !== 'ended';
}

function afterScript(i: Instance, script: StartupScript, result: ScriptResult): Partial<Instance> {
  const ended: Partial<Instance> = { script: { ...script, progress: 'ended', text: '' }, result };
  if (!script.monitored || i.state !== 'Pulling') return ended;
  if (result.return_code === 0) return { ...ended, state: 'Started' };
  const message = `the startup script failed: ${result.errors[0] ?? (result.did_timeout ? `it ran longer than ${script.timeout} s` : `status ${result.return_code}`)}`;
  if (script.onFailure === 'stop') return { ...ended, message, state: 'Stopping' };
  return { ...ended, message, state: 'Error', discard: script.onFailure === 'delete' };
}

export function nextStep(i: Instance): Step {
  switch (i.state) {
    case 'Pulling':
      if (i.vm === null) return 'clone';
      if (i.stage === 'cloned') return 'configure';
      return i.stage === 'configured' ? 'start' : scriptStep(i);
    case 'Started':
      return scriptStep(i);
    case 'Stopping':
      return 'stop';
    case 'Terminating':
      return 'remove';
    case 'Error':
      return i.discard ? 'remove' : 'none';
    default:
      return 'none';
  }
}

const scriptStep = (i: Instance): Step => (i.script !== null && i.script.progress === 'waiting' ? 'runScript' : 'none');

/** The instance as a controller that was just started finds it: no script of before runs any more. */
export function recovered(i: Instance, now: number): Instance {
  if (i.script?.progress !== 'running') return i;
  return advance(i, { type: 'scriptEnded', result: { return_code: -1, did_timeout: false, stdout: '', stderr: '', errors: [INTERRUPTED] } }, now);
}

/** Whether the instance has a VM that runs or soon will. */
function takesSlot(i: Instance): boolean {
  if (i.state === 'Error') return i.vm !== null && i.stage !== 'stopped';
  return i.state === 'Pulling' || i.state === 'Started' || i.state === 'Stopping' || i.state === 'Terminating';
}

/** Which instances may start now, if at most `capacity` VMs may run: by priority, then by age. */
export function schedule(all: readonly Instance[], capacity: number): Instance[] {
  const free = capacity - all.filter(takesSlot).length;
  const waiting = all.filter((i) => i.state === 'Scheduling').sort((a, b) => a.priority - b.priority || a.created - b.created);
  return waiting.slice(0, Math.max(0, free));
}

/** What its age makes of an instance: it is no longer listed, or it ends. */
export function agesTo(i: Instance, now: number): 'dropped' | 'terminated' | null {
  if (i.state === 'Terminated') return now - i.updated > TERMINATED_KEPT_MS ? 'dropped' : null;
  return i.state === 'Error' && now - i.updated > ERROR_KEPT_MS ? 'terminated' : null;
}

/** The instances without the oldest Terminated ones, if more than `limit` are. */
export function withoutOldest(all: readonly Instance[], limit: number): Instance[] {
  const over = all.filter((i) => !isOpen(i)).sort((a, b) => b.updated - a.updated);
  const dropped = new Set(over.slice(limit).map((i) => i.id));
  return all.filter((i) => !dropped.has(i.id));
}

/** Whether it counts towards the limit of instances. */
export const isOpen = (i: Instance): boolean => i.state !== 'Terminated';
