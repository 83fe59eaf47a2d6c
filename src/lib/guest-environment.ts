/** Environment variables for a command in a guest: files of them, and the line that sets them there. Pure. */
import { AnkaError } from './errors.ts';
import { shellQuote } from './guest-ssh.ts';

/** Most bytes of all variables of one command. */
const MAX_BYTES = 1 << 20;
const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/**
 * `NAME=VALUE` or `NAME` for each line of a file's text; values are literal. Blank lines and those that begin with #
 * are left out. Throws `badValue` with the line's number.
 */
export function environmentEntries(text: string, file: string): string[] {
  const lines = text.split(/\r?\n/);
  lines.forEach((line, i) => {
    const name = line.split('=')[0] as string;
    if (isEntry(line) && !NAME.test(name))
      throw new AnkaError('badValue', `--env-file '${file}', line ${i + 1}: '${name.slice(0, 80)}' is not the name of a variable; use NAME=VALUE`);
  });
  return lines.filter(isEntry);
}

const isEntry = (line: string): boolean => line.trim() !== '' && !line.startsWith('#');

/**
 * Variables by name; of equal names the last one counts. An entry without `=` has its value from `own`, and is left out
 * if it has none there. Throws `usage` for a bad name.
 */
export function environmentOf(entries: readonly string[], own: NodeJS.ProcessEnv): Map<string, string> {
  const found = new Map<string, string>();
  for (const entry of entries) {
    const [name = '', ...rest] = entry.split('=');
    if (!NAME.test(name)) throw new AnkaError('usage', `Invalid value for '-e': '${name.slice(0, 80)}' is not the name of a variable.`);
    const value = rest.length > 0 || entry.includes('=') ? rest.join('=') : own[name];
    if (value !== undefined) found.set(name, value);
  }
  return found;
}

/**
 * One line for a POSIX shell that sets the variables; those of `inherited` only where the guest has none of that name.
 * A newline in a value is written as `$nl`.
 */
export function environmentLine(variables: ReadonlyMap<string, string>, inherited: NodeJS.ProcessEnv): string {
  const quoted = (value: string): string => value.split('\n').map(shellQuote).join('"$nl"');
  const soft = Object.entries(inherited).filter(([name, value]) => NAME.test(name) && value !== undefined && !variables.has(name));
  const line = [
    ...soft.map(([name, value]) => `[ "\${${name}+x}" ] || export ${name}=${quoted(value as string)}`),
    ...[...variables].map(([name, value]) => `export ${name}=${quoted(value)}`),
  ].join('; ');
  if (Buffer.byteLength(line) > MAX_BYTES) throw new AnkaError('badValue', `the variables have more than ${MAX_BYTES >> 10} KiB; use fewer`);
  return line === '' ? ':' : line;
}
