import { expect, test } from 'vitest';
import { daemonEnvironment } from './environment.ts';

const CALLER = {
  ...{ PATH: '/home/user/node_modules/.bin:/usr/bin', HOME: '/home/user', TMPDIR: '/home/user/tmp', XDG_RUNTIME_DIR: '/run/user/1000' },
  ...{ NODE_OPTIONS: '--require=/tmp/x.js', NODE_PATH: '/tmp', LD_PRELOAD: '/tmp/x.so', LD_LIBRARY_PATH: '/tmp', PERL5LIB: '/tmp', PYTHONPATH: '/tmp' },
  ...{ BASH_ENV: '/tmp/x', ENV: '/tmp/x', IFS: '/', GCONV_PATH: '/tmp', SECRET: '1', MY_ANKA_HOME: '/tmp' },
  ...{ ANKA_HOME: '/srv/anka', LANG: 'de_DE.UTF-8', LC_ALL: 'C', https_proxy: 'http://proxy:3128', NO_PROXY: 'localhost' },
};
const COMMON = { ANKA_HOME: '/srv/anka', LANG: 'de_DE.UTF-8', LC_ALL: 'C', https_proxy: 'http://proxy:3128', NO_PROXY: 'localhost' };

test('root’s daemon has its own PATH and home, and nothing that makes a program load code', () => {
  const { PATH, HOME, ...rest } = daemonEnvironment(CALLER, 0);
  expect(rest).toEqual(COMMON);
  expect(PATH?.split(':').every((d) => /^\/(usr\/(local\/)?)?s?bin$/.test(d))).toBe(true);
  expect(HOME).not.toBe('/home/user');
});

test('an ordinary user’s daemon keeps the user’s directories too', () =>
  expect(daemonEnvironment(CALLER, 1000)).toEqual({
    ...COMMON,
    PATH: '/home/user/node_modules/.bin:/usr/bin',
    HOME: '/home/user',
    TMPDIR: '/home/user/tmp',
    LD_LIBRARY_PATH: '/tmp',
    XDG_RUNTIME_DIR: '/run/user/1000',
  }));
