/** Arguments of the system's ssh for a guest. Pure. */

/** Where and how a guest is reached. */
export interface SshTarget {
  user: string;
  address: string;
  port: number;
  identityFile: string;
  proxyCommand?: string;
}

/** How this process follows a login. */
export interface LoginWatch {
  /** Gets SIGUSR2 once the guest has accepted the login. */
  pid: number;
  /** File to which ssh appends its own messages. */
  log: string;
}

/** Until the guest has accepted the connection and exchanged keys, seconds. A burst of logins keeps a guest busy. */
const CONNECT_TIMEOUT_S = 20;

function options(target: SshTarget, watch: LoginWatch | null): string[] {
  const o: Record<string, string> = {
    IdentityFile: `"${target.identityFile}"`,
    IdentitiesOnly: 'yes',
    BatchMode: 'yes',
    // A guest creates its host key at first boot, and an address is reused by other guests: there is no known key.
    StrictHostKeyChecking: 'no',
    UserKnownHostsFile: '/dev/null',
    GlobalKnownHostsFile: '/dev/null',
    ConnectTimeout: String(CONNECT_TIMEOUT_S),
    ServerAliveInterval: '15',
    ServerAliveCountMax: '4',
    SendEnv: 'LANG LC_*',
    ...(watch ? { PermitLocalCommand: 'yes', LocalCommand: `kill -USR2 ${watch.pid}` } : {}),
    ...(target.proxyCommand ? { ProxyCommand: target.proxyCommand } : {}),
  };
  // no file of the user's or the host's: a shared connection (ControlPath) could lead to an address's earlier owner
  return ['-F', 'none', ...Object.entries(o).flatMap(([k, v]) => ['-o', `${k}=${v}`])];
}

/** Quotes one word for a POSIX shell. */
export function shellQuote(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/**
 * Arguments of ssh: with a line for the guest's shell, or for a login. `tty` requests a terminal, `force` also if this
 * command has none.
 */
export function sshArguments(
  target: SshTarget,
  watch: LoginWatch,
  line = '',
  { tty = false, force = false }: { tty?: boolean; force?: boolean } = {},
): string[] {
  return [
    // at this level ssh logs the exit status that the guest sent, or -1
    ...['-E', watch.log, '-o', 'LogLevel=DEBUG1'],
    ...options(target, watch),
    '-p',
    String(target.port),
    ...(tty ? [force ? '-tt' : '-t'] : []),
    ...(line !== '' && !tty ? ['-T'] : []),
    `${target.user}@${target.address}`,
    ...(line !== '' ? ['--', line] : []),
  ];
}

/** Arguments of ssh for a line whose standard input and output are a stream, and which nobody watches. */
export function streamArguments(target: SshTarget, line: string): string[] {
  return [...options(target, null), '-o', 'LogLevel=ERROR', '-T', '-p', String(target.port), `${target.user}@${target.address}`, '--', line];
}
