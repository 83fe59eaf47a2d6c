/** Runs other programs: argument arrays only, never a shell. Each command is shown on stderr when ANKA_DEBUG is set. */
import { execa } from 'execa';
import { AnkaError } from '../lib/errors.ts';

export interface RunOptions {
  /** Text for standard input; else it is empty. */
  input?: string;
  env?: Record<string, string>;
  cwd?: string;
  /** Milliseconds after which the program is ended and an error thrown; none by default. */
  timeout?: number;
  /** Words on standard error that tell that the answer may be wrong, and is asked for again, a few times. */
  again?: RegExp;
}

/** Of `again`: the last answer is taken as it is. */
const MOST_TRIES = 5;

/** Which Debian package brings a program that is missing. */
const PACKAGES: Record<string, string> = {
  ip: 'iproute2',
  tc: 'iproute2',
  bridge: 'iproute2',
  nft: 'nftables',
  sysctl: 'procps',
  'qemu-system-x86_64': 'qemu-system-x86',
  'qemu-img': 'qemu-utils',
  mmdebstrap: 'mmdebstrap',
  mke2fs: 'e2fsprogs',
  newuidmap: 'uidmap',
  tcpdump: 'tcpdump',
  ssh: 'openssh-client',
  scp: 'openssh-client',
  'ssh-keygen': 'openssh-client',
};

/**
 * Standard output of a program. `/usr/sbin` and `/sbin` are searched too, as an ordinary user's PATH lacks them on
 * Debian. Throws `missingProgram`, naming the package, where it is not installed; else `internal` with the program's
 * last line on stderr.
 */
export async function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  if (process.env['ANKA_DEBUG']) process.stderr.write(`+ ${[file, ...args].join(' ')}${options.input ? ` <<\n${options.input}` : '\n'}`);
  for (let tries = 1; ; tries++) {
    const result = await once(file, args, options);
    if (result.failed) throw failure(file, args, options, result);
    if (tries === MOST_TRIES || !options.again?.test(result.stderr)) return result.stdout;
  }
}

function once(file: string, args: readonly string[], options: RunOptions) {
  return execa(file, args, {
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
    env: { ...options.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`, LC_ALL: 'C' },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.timeout === undefined ? {} : { timeout: options.timeout }),
    reject: false,
    stripFinalNewline: false,
    maxBuffer: 64 * 1024 * 1024,
  });
}

function failure(file: string, args: readonly string[], options: RunOptions, result: Awaited<ReturnType<typeof once>>): AnkaError {
  if (result.code === 'ENOENT') {
    const pkg = PACKAGES[file];
    return new AnkaError('missingProgram', `the program '${file}' is not installed${pkg ? `; 'apt-get install ${pkg}' brings it` : ''}`);
  }
  const lines = result.stderr
    .trim()
    .split('\n')
    .filter((l) => l.trim() !== '');
  const why = result.timedOut
    ? `did not end within ${options.timeout} ms`
    : (lines.find((l) => l.includes('Error:')) ?? lines.at(-1) ?? `ended with status ${result.exitCode ?? result.signal}`);
  return new AnkaError('internal', `${file} ${args.slice(0, 4).join(' ')}: ${why}`, { cause: result.stderr });
}
