import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { mergeInto } from './merge-tree.ts';

let dir: string;
const at = (...path: string[]): string => join(dir, ...path);
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'anka-merge-'));
  mkdirSync(at('from/d'), { recursive: true });
  writeFileSync(at('from/d/f'), 'new');
  mkdirSync(at('secret'));
  writeFileSync(at('secret/f'), 'untouched');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test('trees are merged; files that exist are replaced, or kept', () => {
  mkdirSync(at('to/d'), { recursive: true });
  writeFileSync(at('to/d/f'), 'old');
  writeFileSync(at('to/d/other'), 'stays');
  mergeInto(at('from'), at('to'), { keepExisting: true });
  expect(readFileSync(at('to/d/f'), 'utf8')).toBe('old');
  mergeInto(at('from'), at('to'), { keepExisting: false });
  expect([readFileSync(at('to/d/f'), 'utf8'), readdirSync(at('to/d'))]).toEqual(['new', ['f', 'other']]);
});

test('a link in the destination that an earlier copy has left is not followed', () => {
  mkdirSync(at('to'));
  symlinkSync(at('secret'), at('to/d'));
  expect(() => mergeInto(at('from'), at('to'), { keepExisting: false })).toThrow('is not a directory');
  expect(readFileSync(at('secret/f'), 'utf8')).toBe('untouched');
  rmSync(at('to/d'));
  mkdirSync(at('to/d'));
  symlinkSync(at('secret/f'), at('to/d/f'));
  mergeInto(at('from'), at('to'), { keepExisting: false });
  expect([readFileSync(at('secret/f'), 'utf8'), readFileSync(at('to/d/f'), 'utf8')]).toEqual(['untouched', 'new']);
});

test('a directory replaces no file, and a file no directory', () => {
  writeFileSync(at('file'), 'x');
  expect(() => mergeInto(at('from'), at('file'), { keepExisting: false })).toThrow(`'${at('file')}' is not a directory`);
  expect(() => mergeInto(at('file'), at('from'), { keepExisting: false })).toThrow(`'${at('from')}' is a directory`);
});
