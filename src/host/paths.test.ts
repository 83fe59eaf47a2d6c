import { expect, test } from 'vitest';
import { resolvePaths } from './paths.ts';

const uid = 12_345;

test('B6: every session of a user finds the same sockets, whatever its XDG_RUNTIME_DIR and TMPDIR', () => {
  const session = { HOME: '/home/ann', XDG_DATA_HOME: '/home/ann/.local/share' };
  const desktop = resolvePaths({ ...session, XDG_RUNTIME_DIR: '/run/user/12345', TMPDIR: '/tmp/user/12345' }, uid);
  expect(desktop.run).toBe('/home/ann/.local/share/anka/run');
  expect(resolvePaths(session, uid).socket).toBe(desktop.socket);
  expect(resolvePaths({}, 0).socket).toBe('/run/anka/ankad.sock');
  expect(resolvePaths({ ANKA_HOME: '/srv/vms' }, 0).socket).toBe('/srv/vms/run/ankad.sock');
});

test('B6: sockets whose path would be too long are in /tmp, each state directory’s in their own', () => {
  const run = (length: number, user = uid) => resolvePaths({ ANKA_HOME: `/${'x'.repeat(length - 1)}` }, user).run;
  const longest = 107 - '/run/net-shared/control.sock.dial'.length;
  expect(run(longest)).toBe(`/${'x'.repeat(longest - 1)}/run`);
  expect(run(longest + 1)).toMatch(/^\/tmp\/anka-12345\/[0-9a-f]{8}$/);
  expect(run(longest + 2)).not.toBe(run(longest + 1));
  expect(run(longest + 1, 0)).toMatch(/^\/tmp\/anka-0\/[0-9a-f]{8}$/);
});
