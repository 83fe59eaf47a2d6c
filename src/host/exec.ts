/** Runs other programs, without a shell. Prints each command to stderr if ANKA_DEBUG is set. */
import { execa } from 'execa';
import { AnkaError } from '../lib/errors.ts';

export interface RunOptions {
  /** Standard input; empty by default. */
  input?: string;
  env?: Record<string, string>;
  cwd?: string;
  /** Milliseconds after which the program is killed and an error thrown; null: none. Two minutes by default. */
  timeout?: number | null;
  /** Message on stderr after which the output may be incomplete: the program is run again. */
  retryOn?: RegExp;
}

/** A program that changes or reads the host takes less than a second; this only ends one that hangs. */
const LIMIT_MS = 120_000;
/** With `retryOn`: the output of the last attempt is taken as it is. */
const MAX_ATTEMPTS = 5;

/** The Debian package of each program. */
const PACKAGES: Record<string, string> = {
  ip: 'iproute2',
  nft: 'nftables',
  sysctl: 'procps',
  'qemu-system-x86_64': 'qemu-system-x86',
  'qemu-img': 'qemu-utils',
  mmdebstrap: 'mmdebstrap',
  mke2fs: 'e2fsprogs',
  newuidmap: 'uidmap',
  tcpdump: 'tcpdump',
  ssh: 'openssh-client',
  'ssh-keygen': 'openssh-client',
};

/**
 * Standard output of a program. `/usr/sbin` and `/sbin` are searched too, as an unprivileged user's PATH lacks them on
 * Debian. Throws `missingProgram` with the package's name if it is not installed, and `internal` with the program's
 * last line on stderr if it fails.
 */
export async function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  if (process.env['ANKA_DEBUG']) process.stderr.write(`+ ${[file, ...args].join(' ')}${options.input ? ` <<\n${options.input}` : '\n'}`);
  for (let attempt = 1; ; attempt++) {
    const result = await once(file, args, options);
    if (result.failed) throw failure(file, args, options, result);
    if (attempt === MAX_ATTEMPTS || !options.retryOn?.test(result.stderr)) return result.stdout;
  }
}

/** As `run`, without a time limit: for work that grows with the size of files. */
export const runLong = (file: string, args: readonly string[], options: RunOptions = {}): Promise<string> => run(file, args, { ...options, timeout: null });

function once(file: string, args: readonly string[], options: RunOptions) {
  return execa(file, args, {
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
    env: { ...options.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.timeout === null ? {} : { timeout: options.timeout ?? LIMIT_MS, killSignal: 'SIGKILL' as const }),
    reject: false,
    stripFinalNewline: false,
    maxBuffer: 64 * 1024 * 1024,
  });
}

function failure(file: string, args: readonly string[], options: RunOptions, result: Awaited<ReturnType<typeof once>>): AnkaError {
  if (result.code === 'ENOENT') {
    const pkg = PACKAGES[file];
    return new AnkaError('missingProgram', `the program '${file}' is not installed${pkg ? `; install it with 'apt-get install ${pkg}'` : ''}`);
  }
  const lines = result.stderr
    .trim()
    .split('\n')
    .filter((l) => l.trim() !== '');
  const why = result.timedOut
    ? `did not exit within ${options.timeout ?? LIMIT_MS} ms`
    : (lines.find((l) => l.includes('Error:')) ?? lines.at(-1) ?? `exited with status ${result.exitCode ?? result.signal}`);
  return new AnkaError('internal', `${file} ${args.slice(0, 4).join(' ')}: ${why}`, { cause: result.stderr });
}
