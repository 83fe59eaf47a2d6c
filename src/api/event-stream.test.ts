import { mkdtempSync, rmSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFinished, test } from 'vitest';
import { EventBacklog, MAX_WAITING } from './event-backlog.ts';
import { createApp } from './routes.ts';
import { ApiServer } from './server.ts';
import type { AnkaService } from './service.ts';
import type { DaemonEvent } from './types.ts';

const event = (time: number): DaemonEvent => ({ time, type: 'test', message: 'x'.repeat(1000) });

/** Subscribes to the events of a served API; `listeners`: those of the service. */
async function subscribe(listeners: Set<(e: DaemonEvent) => void>): Promise<IncomingMessage> {
  const dir = mkdtempSync(join(tmpdir(), 'anka-events-'));
  const onEvent = (listener: (e: DaemonEvent) => void): (() => void) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  };
  const path = join(dir, 'api.sock');
  await new ApiServer(createApp({ onEvent } as unknown as AnkaService, '0'), path, () => {}).listen();
  const answer = await new Promise<IncomingMessage>((resolve) => request({ socketPath: path, path: '/v1/events' }, resolve).end());
  onTestFinished(() => {
    answer.destroy();
    rmSync(dir, { recursive: true });
  });
  return answer;
}

test('a backlog keeps the first events, and counts the rest', () => {
  const backlog = new EventBacklog();
  for (let i = 1; i <= MAX_WAITING + 3; i++) backlog.add(event(i));
  const taken = backlog.take();
  expect(taken.slice(0, -1).map((e) => e.time)).toEqual(Array.from({ length: MAX_WAITING }, (_, i) => i + 1));
  expect(taken.at(-1)).toMatchObject({ time: MAX_WAITING + 3, type: 'events.lost', message: expect.stringMatching(/^3 events/) });
  expect(backlog.take()).toEqual([]);
});

test('a client that does not read for a while gets the first and the last events, and how many are missing', async () => {
  const listeners = new Set<(e: DaemonEvent) => void>();
  const answer = await subscribe(listeners);
  expect(listeners.size).toBe(1);
  const total = 20_000;
  for (let i = 1; i <= total; i++) {
    for (const listener of listeners) listener(event(i));
    if (i % 100 === 0) await new Promise(setImmediate);
  }
  let read = 0;
  let lost = 0;
  let last = 0;
  for await (const line of createInterface({ input: answer })) {
    const e = JSON.parse(line) as DaemonEvent;
    if (e.type === 'events.lost') {
      lost += Number(/^\d+/.exec(e.message));
      for (const listener of listeners) listener(event(total + 1));
    } else {
      read++;
      expect(e.time, 'in order').toBeGreaterThan(last);
      last = e.time;
    }
    if (last === total + 1) break;
  }
  expect(lost).toBeGreaterThan(0);
  expect(read + lost).toBe(total + 1);
});

test('a client that closes while it does not read is forgotten', async () => {
  const listeners = new Set<(e: DaemonEvent) => void>();
  const answer = await subscribe(listeners);
  for (let i = 1; i <= 5000; i++) for (const listener of listeners) listener(event(i));
  answer.destroy();
  while (listeners.size > 0) await new Promise((resolve) => setTimeout(resolve, 20));
});
