import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { StartGate } from './start-gate.ts';

test('B70: a start waits for work that closes the gate, also if that fails, and such work for another', async () => {
  const gate = new StartGate();
  const steps: string[] = [];
  let fail = (_: Error): void => {};
  const first = gate.close(async () => {
    steps.push('change begins');
    await new Promise((_, reject) => {
      fail = reject;
    });
  });
  const start = gate.enter('vm1');
  const second = gate.close(async () => void steps.push(`reset with ${gate.starting.size} inside`));
  await turn();
  expect(steps).toEqual(['change begins']);
  expect(gate.starting.size).toBe(0);
  fail(new Error('refused'));
  await expect(first).rejects.toThrow('refused');
  await Promise.all([start, second]);
  expect(steps).toEqual(['change begins', 'reset with 1 inside']);
  gate.leave('vm1');
  expect(gate.starting.size).toBe(0);
});
