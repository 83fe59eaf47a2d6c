import { closeSync, constants, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { trimLog } from './log-limit.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'anka-log-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test('the end of a large log is kept, and whoever holds it open goes on in the emptied one', async () => {
  const log = join(dir, 'log');
  const fd = openSync(log, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o600);
  writeSync(fd, 'abcdefghij');
  await trimLog(log, 10);
  expect(readFileSync(log, 'latin1')).toBe('abcdefghij');
  writeSync(fd, 'klm');
  await trimLog(log, 10);
  writeSync(fd, 'next');
  closeSync(fd);
  expect(readFileSync(log, 'latin1')).toBe('next');
  expect(readFileSync(`${log}.1`, 'latin1')).toBe('defghijklm');
  expect(existsSync(`${log}.1.part`)).toBe(false);
});

test('no link is followed, neither the log nor what is kept of it', async () => {
  const secret = join(dir, 'secret');
  writeFileSync(secret, 'secret of root');
  symlinkSync(secret, join(dir, 'log'));
  await expect(trimLog(join(dir, 'log'), 4)).rejects.toThrow(/ELOOP/);
  writeFileSync(join(dir, 'qemu.log'), 'long enough');
  for (const name of ['qemu.log.1', 'qemu.log.1.part']) symlinkSync(secret, join(dir, name));
  await trimLog(join(dir, 'qemu.log'), 4);
  expect(readFileSync(join(dir, 'qemu.log.1'), 'latin1')).toBe('ough');
  expect(readFileSync(secret, 'latin1')).toBe('secret of root');
});

test('a log whose end cannot be kept is emptied all the same; one that does not exist is left alone', async () => {
  const log = join(dir, 'log');
  await trimLog(log, 4);
  expect(existsSync(log)).toBe(false);
  writeFileSync(log, 'long enough');
  mkdirSync(`${log}.1`); // a file cannot replace it
  await expect(trimLog(log, 4)).rejects.toThrow();
  expect(readFileSync(log, 'latin1')).toBe('');
});
