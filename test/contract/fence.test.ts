/** What a fenced program may open (host/sandbox/fence.ts), tried by each kind of its threads. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { landlockAbi } from '../../src/host/ffi/landlock.ts';
import { builtMain } from '../world/built.ts';

const abi = landlockAbi();
const dist = fileURLToPath(new URL('../../dist/', import.meta.url));

/**
 * Arguments: the home directory, the kept directory. The first thread, libuv's threads and a worker report what they
 * could do.
 */
const PROBE = `
import { mkdirSync, openSync, readFileSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
const [home, keep] = isMainThread ? process.argv.slice(2) : workerData;
const said = (what) => { try { what(); return 'done'; } catch (e) { return e.code; } };
const saidLater = (what) => what().then(() => 'done', (e) => e.code);
const tries = {
  secret: () => readFileSync(home + '/.ssh/id'),
  disk: () => openSync(home + '/disk', 'r+'),
  made: () => writeFileSync(home + '/made', ''),
  cut: () => truncateSync(home + '/disk', 0),
  removed: () => rmSync(home + '/disk'),
  folder: () => mkdirSync(home + '/folder'),
  systems: () => openSync('/etc/made', 'w'),
  out: () => renameSync(keep + '/a', home + '/a'),
  link: () => symlinkSync(home + '/.ssh/id', keep + '/own' + isMainThread),
  led: () => readFileSync(keep + '/own' + isMainThread),
};
writeFileSync(keep + '/a', 'kept');
const seen = { first: Object.fromEntries(Object.entries(tries).map(([k, f]) => [k, said(f)])) };
seen.pool = { secret: await saidLater(() => readFile(home + '/.ssh/id')), disk: await saidLater(() => open(home + '/disk', 'r+')) };
if (isMainThread) {
  const worker = new Worker(process.argv[1], { workerData: [home, keep] });
  seen.worker = await new Promise((resolve) => worker.once('message', resolve));
  const server = createServer().listen(keep + '/socket');
  seen.usual = {
    kept: said(() => renameSync(keep + '/a', keep + '/b')) + readFileSync(keep + '/b'),
    resolvers: said(() => readFileSync('/etc/resolv.conf')),
    socket: await new Promise((resolve) => server.once('listening', () => resolve('done')).once('error', (e) => resolve(e.code))),
    abstract: await new Promise((resolve) => createConnection('\\0anka-fence-test').once('connect', () => resolve('done')).once('error', (e) => resolve(e.code))),
    signal: said(() => process.kill(process.ppid, 0)),
  };
  server.close();
  console.log(JSON.stringify(seen));
  process.exit(0);
} else parentPort.postMessage(seen);
`;

describe.skipIf(abi < 1)(`a fenced program${abi < 1 ? ' (needs Landlock)' : ''}`, () => {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'anka-fence-')));
  const [home, keep, probe] = [join(dir, 'home'), join(dir, 'keep'), join(dir, 'probe.js')];
  type Said = Record<string, string>;
  let seen: { first: Said; pool: Said; worker: { first: Said; pool: Said }; usual: Said };
  const abstract = createServer().on('error', () => {});

  beforeAll(async () => {
    builtMain();
    mkdirSync(join(home, '.ssh'), { recursive: true });
    writeFileSync(join(home, '.ssh/id'), 'secret');
    writeFileSync(join(home, 'disk'), 'disk');
    writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
    writeFileSync(probe, PROBE);
    await new Promise<void>((resolve) => abstract.listen('\0anka-fence-test', resolve));
    const argv = [join(dist, 'host/sandbox/fenced-main.js'), probe, '--write', keep, '--read', probe, '--read', join(dir, 'package.json'), '--', home, keep];
    seen = JSON.parse(execFileSync(process.execPath, argv, { encoding: 'utf8', env: { ...process.env, HOME: home } }));
  });

  afterAll(() => {
    abstract.close();
    rmSync(dir, { recursive: true, force: true });
  });

  test.each(['first', 'worker'] as const)('its %s thread opens, creates, truncates and removes none of its user’s files', (thread) => {
    const said = thread === 'first' ? seen.first : seen.worker.first;
    expect(said).toEqual({
      ...{ secret: 'EACCES', disk: 'EACCES', made: 'EACCES', cut: abi < 3 ? expect.any(String) : 'EACCES', removed: 'EACCES' },
      ...{ folder: 'EACCES', systems: 'EACCES', out: expect.stringMatching(/EACCES|EXDEV/), link: 'done', led: 'EACCES' },
    });
    expect(readFileSync(join(home, 'disk'), 'utf8')).toBe('disk');
    expect(existsSync(join(home, 'made'))).toBe(false);
  });

  test('nor do libuv’s threads, used by the first thread and by a worker', () => {
    for (const said of [seen.pool, seen.worker.pool]) expect(said).toEqual({ secret: 'EACCES', disk: 'EACCES' });
  });

  test('its own directory and the resolvers stay open; abstract sockets and signals are closed from ABI 6 on', () => {
    expect(seen.usual).toMatchObject({ kept: 'donekept', resolvers: 'done', socket: 'done' });
    if (abi >= 6) expect(seen.usual).toMatchObject({ abstract: 'EPERM', signal: 'EPERM' });
  });
});
