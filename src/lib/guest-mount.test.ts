import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { mountInGuest, outcomeIn } from './guest-mount.ts';

test('the line is a valid one for a POSIX shell', () => {
  execFileSync('sh', ['-n', '-c', mountInGuest('data', true)]);
});

test('a guest without sudo reports it', () => {
  const dir = mkdtempSync(join(tmpdir(), 'anka-guest-'));
  try {
    symlinkSync('/bin/sh', join(dir, 'sh'));
    writeFileSync(join(dir, 'id'), '#!/bin/sh\necho 501\n', { mode: 0o755 });
    const { status, stderr } = spawnSync('/bin/sh', ['-c', mountInGuest('data', true)], { env: { PATH: dir }, encoding: 'utf8' });
    expect([status, outcomeIn(stderr)]).toEqual([1, 'no-sudo']);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test.each([
  ['', null],
  ['Warning: x\nanka-mount: ok\n', 'ok'],
  ['anka-mount: no-sshfs\r\n', 'no-sshfs'],
  ['anka-mount: constructor\n', null],
  ['x anka-mount: ok\n', null],
  ['anka-mount: o', null],
])('outcome of %j', (text, outcome) => expect(outcomeIn(text)).toBe(outcome));
