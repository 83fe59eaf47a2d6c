/** A helper process that meets unexpected exceptions: the network process of the user engine, as from a bug in it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
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

const directory = (): string => mkdtempSync(join(tmpdir(), 'anka-helper-'));

/** Starts it with a module that is loaded first. `dir`: for its files. Connects after `meanwhile`. */
async function startWith(module: string, dir = directory(), meanwhile: () => Promise<void> = async () => {}): Promise<Running> {
  const [control, log, first] = [join(dir, 'control.sock'), join(dir, 'log'), join(dir, 'first.mjs')];
  writeFileSync(first, module);
  const [node, ...args] = ownProgram(new URL('../user/process/network-main.ts', import.meta.url));
  const child = spawn(node, ['--import', first, ...args, '--control', control, '--leases', join(dir, 'leases.json'), '--log', log], { stdio: 'ignore' });
  const exited = new Promise<number | null>((resolve) => child.on('exit', resolve));
  ends.push(() => {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  });
  await meanwhile();
  for (;;) {
    const socket = createConnection(control);
    const connected = await new Promise<boolean>((resolve) => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)));
    if (connected) return { client: new LineClient(socket, () => {}), exited, log: () => readFileSync(log, 'utf8') };
    if (child.exitCode !== null) throw new Error(`it exited: ${readFileSync(log, 'utf8')}`);
    await sleep(20);
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
  while (((await client.call('pulse', {})) as { unexpectedErrors: number }).unexpectedErrors < 3) await sleep(10);
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

test('of several that are started at once, one serves, and the others exit', async () => {
  const dir = directory();
  const all = await Promise.all(Array.from({ length: 4 }, () => startWith('', dir)));
  const pids = await Promise.all(all.map(async ({ client }) => ((await client.call('status', {})) as { pid: number }).pid));
  expect(new Set(pids).size).toBe(1);
  const statuses: (number | null)[] = [];
  for (const { exited } of all) void exited.then((status) => statuses.push(status));
  while (statuses.length < 3) await sleep(20);
  expect(statuses).toEqual([0, 0, 0]);
  expect(await all[0]?.client.call('status', {})).toMatchObject({ pid: pids[0] });
  for (const { client } of all) client.close();
});

/** Listens at a path, and stops. */
const LISTENER = `require('net').createServer().listen(process.argv[1], () => console.log('listens') || setImmediate(() => process.kill(process.pid, 'SIGSTOP')))`;

test('it waits for one that is about to exit, whose socket still accepts connections', async () => {
  const dir = directory();
  const control = join(dir, 'control.sock');
  const dying = spawn('flock', ['-x', '-F', `${control}.lock`, process.execPath, '-e', LISTENER, control], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(dying.stdout, 'data');
  const { client, exited } = await startWith('', dir, async () => {
    await sleep(150);
    dying.kill('SIGKILL');
    await once(dying, 'exit');
  });
  expect(((await client.call('status', {})) as { pid: number }).pid).not.toBe(dying.pid);
  await client.call('stop', {});
  expect(await exited).toBe(0);
});
