import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { baseName, copyOptions, isContents, kindOf, RECEIVE, receiveFlags, SEND, sendFlags } from './guest-copy.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'anka-copy-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const shell = (script: string, args: string[], input?: Buffer) =>
  spawnSync('sh', ['-c', script, 'sh', ...args], { cwd: dir, env: { ...process.env, HOME: dir }, ...(input ? { input } : {}) });
const pack = (from: string, ...members: string[]): Buffer => spawnSync('tar', ['-C', from, '-cf', '-', ...members]).stdout;
const all = { recursive: true, follow: 'none', preserve: true, keepExisting: false, verbose: false } as const;

test('options of cp(1)', () => {
  expect(copyOptions({ preserve: true, R: true, L: true, f: true })).toEqual({
    recursive: true,
    follow: 'all',
    preserve: true,
    keepExisting: false,
    verbose: false,
  });
  expect(copyOptions({ archive: true })).toEqual(all);
  expect(copyOptions({ H: true, n: true, verbose: true })).toEqual({
    recursive: false,
    follow: 'operands',
    preserve: false,
    keepExisting: true,
    verbose: true,
  });
});

test('operands', () => {
  expect(['.', './', 'dir/', 'dir/.', '..', '/'].map(isContents)).toEqual([true, true, true, true, true, true]);
  expect(['dir', '.hidden', 'a.b', 'dir/...', 'x/.y'].map(isContents)).toEqual([false, false, false, false, false]);
  expect(['/a/b', 'b/', 'b'].map(baseName)).toEqual(['b', 'b', 'b']);
  expect(['anka-copy d', 'anka-copy x', 'anka-copy dd', '', 'motd'].map(kindOf)).toEqual(['d', null, null, null, null]);
});

describe('what is received is put where cp(1) puts it', () => {
  beforeEach(() => {
    mkdirSync(join(dir, 'src'));
    writeFileSync(join(dir, 'src/f'), 'new');
    mkdirSync(join(dir, 'there'));
    writeFileSync(join(dir, 'old'), 'old');
  });
  const file = (destination: string, o = {}, several = false) =>
    shell(RECEIVE, [destination, 'f', receiveFlags('f', { ...all, ...o }, several), ''], pack(join(dir, 'src'), './f'));
  const tree = (destination: string, kind: 'c' | 'd' = 'd', name = 'src') =>
    shell(RECEIVE, [destination, kind === 'c' ? '' : name, receiveFlags(kind, all, false), '750'], pack(join(dir, 'src'), './f'));
  const read = (path: string): string => readFileSync(join(dir, path), 'utf8');

  test('a file', () => {
    expect([file('there').status, read('there/f')]).toEqual([0, 'new']);
    expect([file('named').status, read('named')]).toEqual([0, 'new']);
    expect([file('old', { keepExisting: true }).status, read('old')]).toEqual([0, 'old']);
    expect([file('old').status, read('old')]).toEqual([0, 'new']);
    expect([file('~/home').status, read('home')]).toEqual([0, 'new']);
    expect([file('.').status, read('f')]).toEqual([0, 'new']);
    for (const [destination, o, several] of [
      ['nowhere/f', {}, false],
      ['absent/', {}, false],
      ['old', {}, true],
    ] as const)
      expect(file(destination, o, several).status, destination).toBe(1);
    expect(
      readdirSync(dir).filter((f) => f.startsWith('.anka')),
      'nothing is left',
    ).toEqual([]);
  });

  test('a file behind a link is written through the link', () => {
    symlinkSync('old', join(dir, 'link'));
    expect([file('link').status, read('old'), readlinkSync(join(dir, 'link'))]).toEqual([0, 'new', 'old']);
  });

  test('a directory', () => {
    expect([tree('made').status, read('made/f'), lstatSync(join(dir, 'made')).mode & 0o777]).toEqual([0, 'new', 0o750]);
    expect([tree('there').status, read('there/src/f')]).toEqual([0, 'new']);
    expect([tree('there', 'c').status, read('there/f')]).toEqual([0, 'new']);
    expect(String(tree('old').stderr)).toContain('old: not a directory');
    expect(read('old')).toBe('old');
  });

  test('an empty directory', () => {
    mkdirSync(join(dir, 'empty'));
    const nothing = spawnSync('tar', ['-C', join(dir, 'empty'), '-cf', '-', '--null', '--files-from=-'], { input: '' }).stdout;
    expect(shell(RECEIVE, ['made', 'empty', receiveFlags('d', all, false), ''], nothing).status).toBe(0);
    expect(existsSync(join(dir, 'made'))).toBe(true);
  });
});

describe('what is sent', () => {
  const sent = (path: string, o = {}) => {
    const r = shell(SEND, [path, '', sendFlags({ ...all, ...o })]);
    const end = r.stdout.indexOf('\n');
    const names =
      r.status === 0
        ? String(spawnSync('tar', ['-t'], { input: r.stdout.subarray(end + 1) }).stdout)
            .trim()
            .split('\n')
            .sort()
        : [];
    return { status: r.status, kind: kindOf(String(r.stdout.subarray(0, end))), names, error: String(r.stderr) };
  };
  beforeEach(() => {
    mkdirSync(join(dir, 'd'));
    for (const f of ['a.log', 'b.log', '-c.log']) writeFileSync(join(dir, 'd', f), 'x');
    symlinkSync('a.log', join(dir, 'd/link'));
    symlinkSync('d', join(dir, 'l'));
  });

  test('files, links, directories, contents, wildcards', () => {
    expect(sent('d/a.log')).toMatchObject({ kind: 'f', names: ['a.log'] });
    expect(sent('d/-c.log')).toMatchObject({ kind: 'f', names: ['-c.log'] });
    expect(sent('d/link')).toMatchObject({ kind: 'f', names: ['link'] });
    expect(sent('d')).toMatchObject({ kind: 'd', names: ['./', './-c.log', './a.log', './b.log', './link'] });
    expect(sent('d/.')).toMatchObject({ kind: 'c' });
    expect(sent('l/')).toMatchObject({ kind: 'c' });
    expect(sent('l')).toMatchObject({ kind: 'f', names: ['l'] });
    expect(sent('l', { follow: 'operands' })).toMatchObject({ kind: 'd' });
    expect(sent('d/*.log')).toMatchObject({ kind: 'm', names: ['-c.log', 'a.log', 'b.log'] });
  });

  test('errors name the path, and send nothing', () => {
    expect(sent('absent')).toMatchObject({ status: 1, kind: null, error: 'anka cp: absent: no such file or directory\n' });
    expect(sent('d/*.txt')).toMatchObject({ status: 1, kind: null });
    expect(sent('d', { recursive: false })).toMatchObject({ status: 1, error: 'anka cp: d: is a directory; use -r to copy it\n' });
    expect(sent('/dev/null')).toMatchObject({ status: 1, error: 'anka cp: /dev/null: not a regular file\n' });
  });
});
