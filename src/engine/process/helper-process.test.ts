/** A helper process that meets unexpected exceptions: the network process of the user engine, as from a bug in it. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { ownProgram } from '../../host/own-program.ts';
import { LineClient } from '../../lib/json-lines.ts';

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

interface Running {
  client: LineClient;
  exited: Promise<number | null>;
  log(): string;
}

/** Starts it with a module that is loaded first. */
async function startWith(module: string): Promise<Running> {
  const dir = mkdtempSync(join(tmpdir(), 'anka-helper-'));
  const [control, log, first] = [join(dir, 'control.sock'), join(dir, 'log'), join(dir, 'first.mjs')];
  writeFileSync(first, module);
  const [node, ...args] = ownProgram(new URL('../user/process/network-main.ts', import.meta.url));
  const child = spawn(node, ['--import', first, ...args, '--control', control, '--leases', join(dir, 'leases.json'), '--log', log], { stdio: 'ignore' });
  const exited = new Promise<number | null>((resolve) => child.on('exit', resolve));
  ends.push(() => {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  });
  for (;;) {
    const socket = createConnection(control);
    const connected = await new Promise<boolean>((resolve) => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)));
    if (connected) return { client: new LineClient(socket, () => {}), exited, log: () => readFileSync(log, 'utf8') };
    if (child.exitCode !== null) throw new Error(`it exited: ${readFileSync(log, 'utf8')}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Throws from a timer, on each SIGUSR2: `times` exceptions. */
const throwing = (times: number): string =>
  `process.on('SIGUSR2', () => { for (let i = 0; i < ${times}; i++) setTimeout(() => { throw new Error('a bug'); }, i); });`;

test('an exception is logged with its stack, counted, and survived', async () => {
  const { client, log } = await startWith(throwing(3));
  const { pid } = (await client.call('status', {})) as { pid: number };
  expect(await client.call('pulse', {})).toEqual({ unexpectedErrors: 0 });
  process.kill(pid, 'SIGUSR2');
  while (((await client.call('pulse', {})) as { unexpectedErrors: number }).unexpectedErrors < 3) await new Promise((resolve) => setTimeout(resolve, 10));
  expect(log().match(/a bug\\n +at /g)?.length).toBe(3);
  expect(await client.call('status', {})).toMatchObject({ pid });
  client.close();
});

test('after 100 exceptions within 10 s it exits', async () => {
  const { client, exited, log } = await startWith(throwing(150));
  process.kill(((await client.call('status', {})) as { pid: number }).pid, 'SIGUSR2');
  expect(await exited).toBe(1);
  expect(log().match(/a bug/g)?.length).toBe(100);
  expect(log()).toContain('100 unexpected errors within 10 s: exiting');
});
