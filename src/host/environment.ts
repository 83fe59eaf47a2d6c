/**
 * The environment of the daemon, and so of every program that it starts: a list of variables, not what the shell of its
 * first caller happens to hold. No variable that passes makes a program load code.
 */
import { userInfo } from 'node:os';

/** Where root's daemon looks for programs: directories that only root can write. */
const ROOT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Passed to every daemon. Proxies are for the download of the built-in guest. */
const PASSED = /^(ANKA_\w+|USER|LOGNAME|LANG|LC_[A-Z]+|TERM|TZ|(http|https|ftp|all|no)_proxy|(HTTP|HTTPS|FTP|ALL|NO)_PROXY)$/;
/** Passed to the daemon of an ordinary user, which has no more rights than its caller. */
const PASSED_TO_ORDINARY_USERS = /^(PATH|HOME|TMPDIR|LD_LIBRARY_PATH|XDG_[A-Z_]+)$/;

/** What of `env` a daemon of the user `uid` gets. Root's has a fixed PATH, and root's home directory. */
export function daemonEnvironment(env: NodeJS.ProcessEnv = process.env, uid: number = process.getuid?.() ?? 0): NodeJS.ProcessEnv {
  const passed = Object.entries(env).filter(([name]) => PASSED.test(name) || (uid !== 0 && PASSED_TO_ORDINARY_USERS.test(name)));
  return { ...Object.fromEntries(passed), ...(uid === 0 ? { PATH: ROOT_PATH, HOME: userInfo().homedir } : {}) };
}
