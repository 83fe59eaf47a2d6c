import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { DAEMON_NODE_OPTIONS, daemonCommand } from './daemon-program.ts';

test('ankad, started by its first line, gets the options with which anka starts it', () => {
  const [line] = readFileSync(new URL('../daemon/main.ts', import.meta.url), 'utf8').split('\n', 1);
  expect(line).toBe(`#!/usr/bin/env -S node ${DAEMON_NODE_OPTIONS.join(' ')}`);
});

test('Node accepts the options, and the command runs the daemon', () => {
  const [node, ...words] = daemonCommand();
  const run = spawnSync(node, [...words, '--help'], { encoding: 'utf8' });
  expect(run.stderr).toBe('');
  expect(run.stdout).toContain('Usage: ankad');
});
