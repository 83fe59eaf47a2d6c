import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { lockHolder, ProcessLock } from './process-lock.ts';

const dir = mkdtempSync(join(tmpdir(), 'anka-lock-'));
afterAll(() => rmSync(dir, { recursive: true }));

test('B6: one process holds the lock, until it exits; a removed lock file is noticed', async () => {
  const path = join(dir, 'ankad.lock');
  expect(lockHolder(path)).toBeNull();
  const lock = ProcessLock.take(path);
  expect(lock?.isInPlace).toBe(true);
  expect(ProcessLock.take(path)).toBeNull();
  expect(lockHolder(path)).toBe(process.pid);
  expect(readFileSync(path, 'utf8')).toBe(`${process.pid}\n`);
  rmSync(path);
  expect(lock?.isInPlace).toBe(false);
  const other = spawn('flock', ['-x', path, 'sh', '-c', `echo $$ >${path}; echo; exec sleep 600`], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(other.stdout, 'data');
  expect(lock?.isInPlace).toBe(false);
  expect(ProcessLock.take(path)).toBeNull();
  const holder = lockHolder(path);
  process.kill(holder as number);
  other.kill();
  await once(other, 'exit');
  expect(holder).toBeGreaterThan(1);
});
