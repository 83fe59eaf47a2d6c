/** The host's DNS resolvers, and notifications of their changes (B25). */

import { createSocket } from 'node:dgram';
import { type FSWatcher, readFileSync, realpathSync, unwatchFile, watch, watchFile } from 'node:fs';
import { isIPv6 } from 'node:net';
import { dirname } from 'node:path';

const RESOLV_CONF = '/etc/resolv.conf';
const MAX_SERVERS = 6;
/** Directories of the files to which /etc/resolv.conf may be a link. */
export const RESOLVER_DIRECTORIES = [
  '/run/systemd/resolve',
  '/run/NetworkManager',
  '/run/resolvconf',
  '/run/connman',
  '/run/netconfig',
  '/run/resolv.conf',
  '/mnt/wsl',
];

/** The first `nameserver` addresses of a resolv.conf, IPv4 and IPv6, in order, without those in `except`. */
export function parseResolvers(text: string, except: readonly string[] = []): string[] {
  const found: string[] = [];
  for (const line of text.split('\n')) {
    const server = /^\s*nameserver\s+(\S+)/.exec(line)?.[1];
    if (server && !except.includes(server) && !found.includes(server)) found.push(server);
  }
  return found.slice(0, MAX_SERVERS);
}

/** The current resolvers; empty if the file cannot be read. */
export function readResolvers(except: readonly string[] = [], path = RESOLV_CONF): string[] {
  try {
    return parseResolvers(readFileSync(path, 'utf8'), except);
  } catch {
    return []; // no file means no resolvers, as for every libc
  }
}

/** Query for the root's name servers: id 0x616e, recursion desired. */
const ROOT_QUERY = Buffer.from('616e010000010000000000000000020001', 'hex');

/** Whether a resolver answers one of two UDP queries within this time. */
export function resolverAnswers(server: string, timeoutMs = 2000): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createSocket(isIPv6(server) ? 'udp6' : 'udp4');
    // connected, so that a refusal raises the `error` event, too
    const send = (): void => socket.send(ROOT_QUERY, () => {});
    let retry: NodeJS.Timeout | undefined;
    let finished = false;
    const done = (answered: boolean): void => {
      if (finished) return;
      finished = true;
      clearTimeout(retry);
      clearTimeout(end);
      socket.close();
      resolve(answered);
    };
    const end = setTimeout(() => done(false), timeoutMs);
    socket.once('message', () => done(true));
    socket.on('error', () => done(false)); // refused
    // the callback gets the error of a connect without a route, and then there is no `error` event
    socket.connect(53, server, ((error?: Error) => {
      if (error) return done(false);
      send();
      retry = setTimeout(send, timeoutMs / 2);
    }) as () => void);
  });
}

/**
 * Calls back after every change of the file, also if it is replaced or becomes a symbolic link. Its directories are
 * watched for a fast reaction; the file is also polled every second, as changes behind a link or mount raise no event.
 * Returns a function that stops watching.
 */
export function watchResolvers(onChange: () => void, path = RESOLV_CONF): () => void {
  const watchers: FSWatcher[] = [];
  const directories = new Set([dirname(path)]);
  try {
    directories.add(dirname(realpathSync(path)));
  } catch {
    // a dangling link: only its own directory is watched
  }
  for (const directory of directories) {
    try {
      const w = watch(directory, () => onChange());
      w.on('error', () => {}); // polling continues
      watchers.push(w);
    } catch {
      // no inotify instance left: polling continues
    }
  }
  watchFile(path, { interval: 1000 }, () => onChange());
  return () => {
    for (const w of watchers) w.close();
    unwatchFile(path);
  };
}
