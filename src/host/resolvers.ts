/** The host's own DNS resolvers, and word of every change of them (B25). */

import { createSocket } from 'node:dgram';
import { type FSWatcher, readFileSync, realpathSync, unwatchFile, watch, watchFile } from 'node:fs';
import { isIPv6 } from 'node:net';
import { dirname } from 'node:path';

const RESOLV_CONF = '/etc/resolv.conf';
/** systemd-resolved writes the real servers here; its stub on 127.0.0.53 works too, but asks twice. */
const MAX_SERVERS = 6;
/** Where programs keep the file to which /etc/resolv.conf is a link. */
export const RESOLVER_FOLDERS = [
  '/run/systemd/resolve',
  '/run/NetworkManager',
  '/run/resolvconf',
  '/run/connman',
  '/run/netconfig',
  '/run/resolv.conf',
  '/mnt/wsl',
];

/** `nameserver` lines of a resolv.conf: IPv4 and IPv6 texts, in order, without those in `except`. */
export function parseResolvers(text: string, except: readonly string[] = []): string[] {
  const found: string[] = [];
  for (const line of text.split('\n')) {
    const server = /^\s*nameserver\s+(\S+)/.exec(line)?.[1];
    if (server && !except.includes(server) && !found.includes(server)) found.push(server);
  }
  return found.slice(0, MAX_SERVERS);
}

/** The resolvers now; empty when the file cannot be read. */
export function readResolvers(except: readonly string[] = [], path = RESOLV_CONF): string[] {
  try {
    return parseResolvers(readFileSync(path, 'utf8'), except);
  } catch {
    return []; // no file means no resolvers, as for every libc
  }
}

/** A question for the root's name servers: id 0x616e, recursion desired. */
const ROOT_QUESTION = Buffer.from('616e010000010000000000000000020001', 'hex');

/** Whether a resolver answers at all within this time, asked twice by UDP. */
export function asksResolver(server: string, timeoutMs = 2000): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createSocket(isIPv6(server) ? 'udp6' : 'udp4');
    // an error is told by the event; connected, so that a refusal is told, too
    const ask = (): void => socket.send(ROOT_QUESTION, () => {});
    const done = (answered: boolean): void => {
      clearTimeout(again);
      clearTimeout(end);
      socket.close();
      resolve(answered);
    };
    const again = setTimeout(ask, timeoutMs / 2);
    const end = setTimeout(() => done(false), timeoutMs);
    socket.once('message', () => done(true));
    socket.once('error', () => done(false)); // refused, or no way to it
    socket.connect(53, server, ask);
  });
}

/**
 * Calls back after every change of the file, also when it is replaced, or a symbolic link to somewhere else: its folder
 * is watched for speed, and the file is looked at every second, since a change behind a link or a mount is not told.
 * Returns the function that ends it.
 */
export function watchResolvers(onChange: () => void, path = RESOLV_CONF): () => void {
  const watchers: FSWatcher[] = [];
  const folders = new Set([dirname(path)]);
  try {
    folders.add(dirname(realpathSync(path)));
  } catch {
    // a dangling link is watched where it stands
  }
  for (const folder of folders) {
    try {
      const w = watch(folder, () => onChange());
      w.on('error', () => {}); // the look every second goes on
      watchers.push(w);
    } catch {
      // no inotify left: the look every second goes on
    }
  }
  watchFile(path, { interval: 1000 }, () => onChange());
  return () => {
    for (const w of watchers) w.close();
    unwatchFile(path);
  };
}
