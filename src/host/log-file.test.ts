import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { missing } from '../../test/world/world.ts';
import { LogFile } from './log-file.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'anka-log-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function fill(log: LogFile, count: number): void {
  for (let i = 0; i < count; i++) {
    log.write(`${String(i).padStart(99, '.')}\n`);
    log.flushSync();
  }
}

test('it keeps at most two files of the given size, and the last lines', () => {
  const path = join(dir, 'new', 'log');
  fill(new LogFile(path, 1000), 95);
  expect(readdirSync(join(dir, 'new')).sort()).toEqual(['log', 'log.1']);
  expect(statSync(`${path}.1`).size).toBe(1000);
  expect(readFileSync(path, 'utf8')).toMatch(/94\n$/);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const next = new LogFile(path, 1000);
  fill(next, 1);
  expect(statSync(path).size, 'the next process appends to it').toBe(600);
});

test('a symbolic link is moved away, and its target is not changed', () => {
  writeFileSync(join(dir, 'other'), 'precious');
  symlinkSync(join(dir, 'other'), join(dir, 'log'));
  fill(new LogFile(join(dir, 'log')), 1);
  expect(readFileSync(join(dir, 'other'), 'utf8')).toBe('precious');
  expect(readFileSync(join(dir, 'log'), 'utf8')).toMatch(/0\n$/);
});

test('while its directory cannot be created, lines are lost and counted', () => {
  const path = join(dir, 'in-the-way', 'log');
  writeFileSync(join(dir, 'in-the-way'), '');
  const log = new LogFile(path);
  fill(log, 3);
  rmSync(join(dir, 'in-the-way'));
  log.write('again\n');
  log.flushSync();
  const [first, second] = readFileSync(path, 'utf8').split('\n');
  expect(JSON.parse(first as string)).toMatchObject({ lost: 3, msg: 'lines of this log could not be written' });
  expect(second).toBe('again');
});

test.skipIf(missing('root', 'netns') !== null)('a full disk loses only lines', () => {
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', dir]);
  try {
    const path = join(dir, 'log');
    const log = new LogFile(path);
    writeFileSync(join(dir, 'ballast'), Buffer.alloc(8192));
    fill(log, 200);
    rmSync(join(dir, 'ballast'));
    log.write('again\n');
    log.flushSync();
    const lines = readFileSync(path, 'utf8').trim().split('\n');
    expect(lines.at(-1)).toBe('again');
    expect(JSON.parse(lines.at(-2) as string).lost).toBeGreaterThan(50);
    expect(existsSync(`${path}.1`)).toBe(false);
  } finally {
    execFileSync('umount', ['-l', dir]);
  }
});
