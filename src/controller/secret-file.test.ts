import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readPublic, readSecret, readToken } from './secret-file.ts';

const dir = mkdtempSync(join(tmpdir(), 'anka-secret-'));
afterAll(() => rmSync(dir, { recursive: true }));

function file(text: string, mode = 0o600): string {
  const path = join(dir, 'f');
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

test('the token is the one line', () => expect(readToken(file('0123456789\n'))).toBe('0123456789'));

test.each(['', '\n', '012345678', '0123456789\n0123456789', 'with a blank', 'ümläute12345', 'x'.repeat(1025)])("'%s' is no token", (text) =>
  expect(() => readToken(file(text))).toThrow('must hold one token of 10 to 1024 characters'),
);

test.each([0o640, 0o604, 0o620, 0o666])('mode %o: others could read or change it', (mode) => {
  const path = file('0123456789', mode);
  expect(() => readToken(path)).toThrow(`--token-file ${path}: other users can read it; run 'chmod 600 ${path}'`);
  expect(() => readSecret('--key', path)).toThrow('--key');
  expect(readPublic('--cert', path)).toBe('0123456789');
});

test('what is no small file is refused', () => {
  expect(() => readToken(join(dir, 'nosuch'))).toThrow('--token-file');
  expect(() => readToken(dir)).toThrow('must be a file');
  expect(() => readPublic('--cert', file('x'.repeat(100_000)))).toThrow('at most 65536 bytes');
});
