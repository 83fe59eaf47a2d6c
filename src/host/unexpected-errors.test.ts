import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { ErrorCount } from './unexpected-errors.ts';

const MODULE = new URL('./unexpected-errors.ts', import.meta.url);

test('100 errors within 10 s are too many; as many in a longer time are not', () => {
  const quick = new ErrorCount();
  const results = Array.from({ length: 100 }, (_, i) => quick.add(i * 100));
  expect(results.indexOf(true)).toBe(99);
  const slow = new ErrorCount();
  expect(Array.from({ length: 1000 }, (_, i) => slow.add(i * 102)).includes(true)).toBe(false);
  expect(slow.total).toBe(1000);
});

/** Runs a program that survives unexpected errors and logs to standard output. */
async function run(program: string): Promise<{ status: number | null; lines: { error?: string; message: string }[] }> {
  const text = `import { surviveUnexpectedErrors } from ${JSON.stringify(MODULE.href)};
    let started = true;
    const log = { error: (o, message) => console.log(JSON.stringify({ ...o, message })) };
    const errors = surviveUnexpectedErrors({ log, survives: () => started, exit: () => process.exit(1) });
    ${program}`;
  const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), '--input-type=module', '-e', text], {
    cwd: fileURLToPath(new URL('.', import.meta.url)),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  child.stdout.on('data', (d: Buffer) => {
    out += d.toString();
  });
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  return { status, lines: out.split('\n').flatMap((l) => (l === '' ? [] : JSON.parse(l))) };
}

test('a process survives exceptions of timers, rejections and errors without a listener, and logs each with its stack', async () => {
  const { status, lines } = await run(`
    const { EventEmitter } = await import('node:events');
    setTimeout(function fromTimer() { throw new Error('one'); }, 1);
    setTimeout(() => Promise.reject(new Error('two')), 2);
    setTimeout(() => new EventEmitter().emit('error', new Error('three')), 3);
    setTimeout(() => { throw 'four'; }, 4);
    setTimeout(() => { log.error({}, 'went on with ' + errors.total); process.exit(0); }, 50);`);
  expect(status).toBe(0);
  expect(lines.map((l) => l.message)).toEqual(['unexpected error', 'unhandled rejection', 'unexpected error', 'unexpected error', 'went on with 4']);
  expect(lines[0]?.error).toMatch(/Error: one\n +at .*fromTimer/);
  expect(lines.slice(1, 4).map((l) => l.error)).toEqual([expect.stringMatching(/two\n +at /), expect.stringMatching(/three\n +at /), 'thrown: four']);
});

test('a process exits when there are too many, and when its state does not allow to go on', async () => {
  const many = await run(`setInterval(() => { throw new Error('again'); }, 1);`);
  expect(many.status).toBe(1);
  expect(many.lines.length).toBe(101);
  expect(many.lines.at(-1)?.message).toBe('100 unexpected errors within 10 s: exiting');
  const starting = await run(`started = false; setTimeout(() => { throw new Error('at start'); }, 1); setInterval(() => {}, 1e6);`);
  expect(starting.status).toBe(1);
  expect(starting.lines.map((l) => l.message)).toEqual(['unexpected error']);
});
