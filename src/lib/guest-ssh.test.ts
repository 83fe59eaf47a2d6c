import { execFileSync, spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { lineInGuest, wordsInGuest } from './guest-command.ts';
import { sshArguments } from './guest-ssh.ts';

const target = { user: 'anka', address: '192.168.64.2', port: 22, identityFile: '/k' };
const watch = { pid: 7, log: '/log' };

test('B5: each argument of a command reaches the guest as one argument, in every shell that may parse it', () => {
  const words = ['printf', '%s|', "a b'c", '$HOME', '', '*', 'x\ny', '--'];
  for (const shell of ['sh', 'bash']) expect(String(execFileSync(shell, ['-c', wordsInGuest(words)])), shell).toBe("a b'c|$HOME||*|x\ny|--|");
  expect(String(execFileSync('sh', ['-c', lineInGuest('echo a; echo "b  c"')], { env: { ...process.env, SHELL: '/bin/sh' } }))).toBe('a\nb  c\n');
});

test('B5: the status of a command passes, and the end by a signal as 128 + its number', () => {
  const status = (words: string[]) => spawnSync('sh', ['-c', wordsInGuest(words)], { stdio: ['ignore', 'ignore', 'ignore'] }).status;
  expect(status(['sh', '-c', 'exit 7'])).toBe(7);
  expect(status(['sh', '-c', 'exit 255'])).toBe(255);
  expect(status(['sh', '-c', 'kill -TERM $$'])).toBe(143);
  expect(status(['sh', '-c', 'kill -KILL $$'])).toBe(137);
  expect(status(['no-such-program'])).toBe(127);
});

test('B5: ssh reads no configuration file, and reports an accepted login', () => {
  const ssh = sshArguments(target, watch, 'line');
  expect(ssh.slice(-4)).toEqual(['-T', 'anka@192.168.64.2', '--', 'line']);
  expect(ssh.join(' ')).toContain('-F none');
  expect(ssh).toContain('LocalCommand=kill -USR2 7');
  expect(ssh.join(' ')).toMatch(/ConnectTimeout=\d+/);
  expect(sshArguments(target, watch).at(-1)).toBe('anka@192.168.64.2');
});
