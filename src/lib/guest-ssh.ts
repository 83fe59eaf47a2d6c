/** Arguments of the system's ssh and scp for a guest. Pure. */

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
    // A guest creates its host key at first boot, and an address is reused by other guests: there is no known key.
    StrictHostKeyChecking: 'no',
    UserKnownHostsFile: target.knownHosts,
    LogLevel: 'ERROR',
    ServerAliveInterval: '15',
    ServerAliveCountMax: '4',
    ...(target.proxyCommand ? { ProxyCommand: target.proxyCommand } : {}),
  };
  return Object.entries(o).flatMap(([k, v]) => ['-o', `${k}=${v}`]);
}

/** Quotes one word for a POSIX shell. */
export function shellQuote(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command line for the guest's shell that passes each word as one word. */
export function shellLine(words: readonly string[]): string {
  return words.map(shellQuote).join(' ');
}

/** Arguments of ssh: with a line for the guest's shell, or for a login. `tty` requests a terminal. */
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

/** Arguments of scp: `paths` are the sources, then the destination. */
export function scpArguments(target: SshTarget, paths: readonly { path: string; guest: boolean }[], recursive: boolean): string[] {
  const name = (p: { path: string; guest: boolean }) =>
    p.guest ? `${target.user}@${target.address}:${p.path}` : p.path.startsWith('/') ? p.path : `./${p.path}`;
  return [...options(target), '-P', String(target.port), ...(recursive ? ['-r'] : []), ...paths.map(name)];
}
