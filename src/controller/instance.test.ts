import { describe, expect, test } from 'vitest';
import {
  advance,
  agesTo,
  ERROR_KEPT_MS,
  type Instance,
  type InstanceEvent,
  newInstance,
  nextStep,
  type Order,
  recovered,
  type ScriptResult,
  type StartupScript,
  schedule,
  TERMINATED_KEPT_MS,
  withoutOldest,
} from './instance.ts';

const ORDER: Order = {
  templateId: 't',
  templateName: 'debian',
  tag: 'latest',
  name: '',
  externalId: '',
  groupId: '',
  priority: 1000,
  nameTemplate: '',
  cpus: 0,
  ram: 0,
  rules: [],
  metadata: {},
  script: null,
};
const SCRIPT: StartupScript = { text: 'c2xlZXAgNQ==', waitNetwork: true, monitored: true, timeout: 90, onFailure: 'stop', progress: 'waiting' };
const ended = (return_code: number, rest: Partial<ScriptResult> = {}): InstanceEvent => ({
  type: 'scriptEnded',
  result: { return_code, did_timeout: false, stdout: '', stderr: '', errors: [], ...rest },
});
const cloned: InstanceEvent = { type: 'cloned', vm: 'v' };
const [scheduled, configured, running, scriptBegun, stopped, terminate, removed] = (
  ['scheduled', 'configured', 'running', 'scriptBegun', 'stopped', 'terminate', 'removed'] as const
).map((type): InstanceEvent => ({ type })) as [InstanceEvent, InstanceEvent, InstanceEvent, InstanceEvent, InstanceEvent, InstanceEvent, InstanceEvent];
const failed: InstanceEvent = { type: 'failed', message: 'no space' };
const lost: InstanceEvent = { type: 'lost', message: 'deleted' };

const ordered = (change: Partial<Order> = {}): Instance => newInstance('i', { ...ORDER, ...change }, 0);
/** `state/stage → next step` after each of the events. */
function trace(first: Instance, ...events: InstanceEvent[]): string[] {
  let i = first;
  return events.map((e) => {
    i = advance(i, e, 1);
    return `${i.state}/${i.stage} → ${nextStep(i)}`;
  });
}
const moved = (first: Instance, ...events: InstanceEvent[]): Instance => events.reduce((i, e) => advance(i, e, 1), first);

test('without a script: Scheduling, Pulling, Started, Terminating, Terminated', () => {
  expect(nextStep(ordered())).toBe('none');
  expect(trace(ordered(), scheduled, cloned, configured, running, terminate, removed)).toEqual([
    'Pulling/none → clone',
    'Pulling/cloned → configure',
    'Pulling/configured → start',
    'Started/running → none',
    'Terminating/running → remove',
    'Terminated/none → none',
  ]);
});

test('a monitored script runs before Started, another one after', () => {
  const started = [scheduled, cloned, configured, running] as const;
  expect(trace(ordered({ script: SCRIPT }), ...started, scriptBegun, ended(0)).slice(3)).toEqual([
    'Pulling/running → runScript',
    'Pulling/running → none',
    'Started/running → none',
  ]);
  const script = { ...SCRIPT, monitored: false };
  expect(trace(ordered({ script }), ...started, scriptBegun, ended(3)).slice(3)).toEqual([
    'Started/running → runScript',
    'Started/running → none',
    'Started/running → none',
  ]);
  expect(moved(ordered({ script }), ...started, scriptBegun, ended(3))).toMatchObject({ result: { return_code: 3 }, script: { text: '', progress: 'ended' } });
});

test('a monitored script that fails: the VM is stopped, kept or deleted', () => {
  const events = [scheduled, cloned, configured, running, scriptBegun, ended(7)];
  const end = (onFailure: StartupScript['onFailure'], ...more: InstanceEvent[]) =>
    trace(ordered({ script: { ...SCRIPT, onFailure } }), ...events, ...more).slice(5);
  expect(end('stop', stopped)).toEqual(['Stopping/running → stop', 'Error/stopped → none']);
  expect(end('keep')).toEqual(['Error/running → none']);
  expect(end('delete', removed)).toEqual(['Error/running → remove', 'Error/none → none']);
  expect(moved(ordered({ script: SCRIPT }), ...events).message).toBe('the startup script failed: status 7');
  const timeout = ended(-1, { did_timeout: true, errors: ['the script did not end within 90 s'] });
  expect(moved(ordered({ script: SCRIPT }), ...events.slice(0, 5), timeout).message).toBe('the startup script failed: the script did not end within 90 s');
});

test('a failure before Started deletes what there is of the VM', () => {
  expect(trace(ordered(), failed)).toEqual(['Error/none → remove']);
  expect(trace(ordered(), scheduled, cloned, failed, removed, terminate, removed)).toEqual([
    'Pulling/none → clone',
    'Pulling/cloned → configure',
    'Error/cloned → remove',
    'Error/none → none',
    'Terminating/none → remove',
    'Terminated/none → none',
  ]);
});

test('terminated while it is cloned: the clone is still deleted, and nothing brings the instance back', () => {
  expect(trace(ordered(), scheduled, terminate, cloned, configured, running, failed, ended(0), lost, removed, terminate)).toEqual([
    'Pulling/none → clone',
    'Terminating/none → remove',
    'Terminating/cloned → remove',
    ...Array.from({ length: 5 }, () => 'Terminating/cloned → remove'),
    'Terminated/none → none',
    'Terminated/none → none',
  ]);
});

test('terminated before it was scheduled: there is no VM to delete', () => expect(trace(ordered(), terminate)).toEqual(['Terminated/none → none']));

test('a VM that was deleted by others ends its instance', () => {
  expect(moved(ordered(), scheduled, cloned, configured, running, lost)).toMatchObject({ state: 'Terminated', vm: null, message: 'deleted' });
  expect(moved(ordered(), scheduled, lost)).toMatchObject({ state: 'Pulling' });
});

describe('after a restart of the controller', () => {
  const events = [scheduled, cloned, configured, running, scriptBegun];
  test('a script that ran has failed: it ended with its connection', () => {
    expect(recovered(moved(ordered({ script: SCRIPT }), ...events), 2)).toMatchObject({ state: 'Stopping', result: { return_code: -1 } });
    const unmonitored = recovered(moved(ordered({ script: { ...SCRIPT, monitored: false } }), ...events), 2);
    expect(unmonitored).toMatchObject({ state: 'Started', result: { errors: ['the controller was restarted while the script ran'] } });
  });
  test('all else continues', () => {
    const i = moved(ordered({ script: SCRIPT }), ...events.slice(0, 4));
    expect(recovered(i, 2)).toBe(i);
  });
});

test('an event without meaning changes nothing, not even the time', () => {
  const i = moved(ordered(), scheduled, cloned, configured, running);
  for (const e of [scheduled, cloned, configured, running, stopped, removed, failed, ended(0), scriptBegun]) expect(advance(i, e, 9)).toBe(i);
  expect(advance(i, terminate, 9).updated).toBe(9);
});

test('free slots go to the lowest priority, then to the oldest order', () => {
  const make = (id: string, priority: number, created: number, ...events: InstanceEvent[]) =>
    moved(newInstance(id, { ...ORDER, priority }, created), ...events);
  const waiting = [make('c', 1000, 1), make('b', 1000, 0), make('a', 1, 2)];
  const names = (capacity: number, ...others: Instance[]) => schedule([...others, ...waiting], capacity).map((i) => i.id);
  expect(names(10)).toEqual(['a', 'b', 'c']);
  const started = make('s', 1, 0, scheduled, cloned, configured, running);
  expect(names(2, started)).toEqual(['a']);
  expect(names(2, started, make('x', 1, 0, scheduled))).toEqual([]);
  expect(names(1, advance(started, terminate, 1)), 'its VM still runs').toEqual([]);
  expect(names(1, moved(started, terminate, removed))).toEqual(['a']);
});

test('a failed instance takes a slot while its VM runs', () => {
  const fail = (onFailure: StartupScript['onFailure'], ...more: InstanceEvent[]) =>
    moved(ordered({ script: { ...SCRIPT, onFailure } }), scheduled, cloned, configured, running, scriptBegun, ended(1), ...more);
  const free = (i: Instance) => schedule([i, newInstance('w', ORDER, 0)], 1).length;
  expect([free(fail('keep')), free(fail('stop', stopped)), free(fail('delete', removed))]).toEqual([0, 1, 1]);
});

test('the oldest Terminated instances are dropped, open ones never', () => {
  const over = [3, 1, 2].map((t) => advance(newInstance(`t${t}`, ORDER, 0), terminate, t));
  const open = newInstance('open', ORDER, 0);
  expect(withoutOldest([open, ...over], 2).map((i) => i.id)).toEqual(['open', 't3', 't2']);
  expect(withoutOldest([open], 0)).toEqual([open]);
});

test('ages: Terminated is listed for a minute, Error for a day', () => {
  const over = moved(ordered(), scheduled, terminate, removed);
  expect([agesTo(over, TERMINATED_KEPT_MS), agesTo(over, TERMINATED_KEPT_MS + 2)]).toEqual([null, 'dropped']);
  const error = moved(ordered(), failed);
  expect([agesTo(error, ERROR_KEPT_MS), agesTo(error, ERROR_KEPT_MS + 2)]).toEqual([null, 'terminated']);
  expect(agesTo(moved(ordered(), scheduled, cloned, configured, running), 1e15)).toBeNull();
});
