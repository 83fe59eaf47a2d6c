/** Argument lists for the system's ssh and scp into a guest: pure. */

/** Where and how a guest is reached. */
export interface SshTarget {
  user: string;
  address: string;
  port: number;
  identityFile: string;
  knownHosts: string;
  proxyCommand?: string;
}

function options(target: SshTarget): string[] {
  const o: Record<string, string> = {
    IdentityFile: `"${target.identityFile}"`,
    IdentitiesOnly: 'yes',
    // A guest's host key is made at its first boot and an address is used by many guests in turn: there is nothing to
    // compare it with.
    StrictHostKeyChecking: 'no',
    UserKnownHostsFile: target.knownHosts,
    LogLevel: 'ERROR',
    ServerAliveInterval: '15',
    ServerAliveCountMax: '4',
    ...(target.proxyCommand ? { ProxyCommand: target.proxyCommand } : {}),
  };
  return Object.entries(o).flatMap(([k, v]) => ['-o', `${k}=${v}`]);
}

/** One word as a POSIX shell reads it back. */
export function shellQuote(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command line for the guest's shell, in which each of these words is one word. */
export function shellLine(words: readonly string[]): string {
  return words.map(shellQuote).join(' ');
}

/** ssh's arguments; with a line for the guest's shell, or without for a login. `tty` asks for a terminal. */
export function sshArguments(target: SshTarget, line = '', tty = false): string[] {
  return [
    ...options(target),
    '-p',
    String(target.port),
    ...(tty ? ['-t'] : []),
    ...(line !== '' && !tty ? ['-T'] : []),
    `${target.user}@${target.address}`,
    ...(line !== '' ? ['--', line] : []),
  ];
}

/** scp's arguments: `sources` and `destination` are host paths, or guest paths marked by `guest: true`. */
export function scpArguments(target: SshTarget, paths: readonly { path: string; guest: boolean }[], recursive: boolean): string[] {
  const name = (p: { path: string; guest: boolean }) =>
    p.guest ? `${target.user}@${target.address}:${p.path}` : p.path.startsWith('/') ? p.path : `./${p.path}`;
  return [...options(target), '-P', String(target.port), ...(recursive ? ['-r'] : []), ...paths.map(name)];
}
