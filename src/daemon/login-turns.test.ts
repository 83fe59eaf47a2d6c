import { expect, test } from 'vitest';
import { LoginTurns } from './login-turns.ts';

test('B5: four clients log in to a guest at a time, in order; one that left the queue is passed over', async () => {
  const turns = new LoginTurns();
  const order: number[] = [];
  const all = Array.from({ length: 8 }, (_, i) => {
    const turn = turns.take('a');
    void turn.granted.then(() => order.push(i));
    return turn;
  });
  const other = turns.take('b');
  await other.granted; // another guest has its own turns
  expect(order).toEqual([0, 1, 2, 3]);
  all[4]?.end(); // was waiting
  all[1]?.end();
  all[1]?.end(); // counts once
  await Promise.resolve();
  await Promise.resolve();
  expect(order).toEqual([0, 1, 2, 3, 5]);
  for (const t of all) t.end();
  await Promise.resolve();
  const next = Array.from({ length: 4 }, () => turns.take('a'));
  await Promise.all(next.map((t) => t.granted));
});
