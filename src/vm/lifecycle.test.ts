import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { type Command, diagram, type State, TRANSITIONS, transition } from './lifecycle.ts';

test('B3, B4: the result of each command in each state', () => {
  const rows = (Object.keys(TRANSITIONS) as State[]).map(
    (s) =>
      `${s}: ${(Object.keys(TRANSITIONS[s]) as Command[])
        .map((c) => {
          try {
            return `${c}→${transition('vm', s, c)}`;
          } catch {
            return `${c}✗`;
          }
        })
        .join(' ')}`,
  );
  expect(rows).toEqual([
    'stopped: start→running stop→stopped suspend✗ reboot✗ clone→stopped delete→deleted',
    'running: start→running stop→stopped suspend→suspended reboot→running clone→running delete→deleted',
    'suspended: start→running stop→stopped suspend→suspended reboot✗ clone→suspended delete→deleted',
    'failed: start→running stop→stopped suspend✗ reboot✗ clone→failed delete→deleted',
  ]);
});

test('a refusal names the VM and the command to use instead', () =>
  expect(() => transition('vm1', 'stopped', 'reboot')).toThrow('vm1 is stopped; start it instead'));

test('docs/lifecycle.md contains the diagram of the table', () => {
  expect(diagram()).toContain('running --> suspended: suspend');
  expect(diagram()).toContain('failed --> [*]: delete');
  expect(readFileSync(new URL('../../docs/lifecycle.md', import.meta.url), 'utf8')).toContain(`${diagram()}\n`);
});
