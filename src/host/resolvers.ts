/** The host's name resolution: /etc/resolv.conf and /etc/hosts, and notifications of their changes (B25). */

import { createSocket } from 'node:dgram';
import { closeSync, constants, type FSWatcher, openSync, readSync, realpathSync, statSync, watch } from 'node:fs';
import { isIP, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';
import { basename, dirname } from 'node:path';
import { everySecond } from '../lib/every-second.ts';

const PATHS = { resolvConf: '/etc/resolv.conf', hosts: '/etc/hosts' };
const MAX_SERVERS = 6;
const MAX_DOMAINS = 6;
/** Read of each file; the rest is ignored. */
const MAX_BYTES = 1 << 20;
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

/** Of opening a file that does not exist. */
const ABSENT = ['ENOENT', 'ENOTDIR', 'ELOOP'];

/** Contents of the two files: empty when there is none, null when it cannot be read by this process now. */
export interface ResolverFiles {
  resolvConf: string | null;
  hosts: string | null;
}

/** A resolv.conf (resolv.conf(5)). */
export interface ResolvConf {
  /** The first six `nameserver` addresses, IPv4 and IPv6, in order. */
  servers: string[];
  /** Domains of the last `search` or `domain`, the first six. */
  search: string[];
  /** Of `options`. Absent: not set. */
  timeoutSeconds?: number;
  attempts?: number;
  rotate: boolean;
}

const DOMAIN = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/;

/** `except`: servers to leave out. */
export function parseResolvConf(text: string, except: readonly string[] = []): ResolvConf {
  const conf: ResolvConf = { servers: [], search: [], rotate: false };
  for (const line of text.split('\n')) {
    const [keyword, ...values] = line.trim().split(/\s+/);
    const first = values[0] ?? '';
    if (keyword === 'nameserver' && isIP(first) !== 0 && !except.includes(first) && !conf.servers.includes(first)) conf.servers.push(first);
    else if (keyword === 'search' || keyword === 'domain') conf.search = domains(values);
    else if (keyword === 'options') readOptions(values, conf);
  }
  conf.servers.splice(MAX_SERVERS);
  return conf;
}

function domains(words: readonly string[]): string[] {
  const valid = words.map((w) => w.toLowerCase().replace(/\.$/, '')).filter((w) => DOMAIN.test(w));
  return [...new Set(valid)].slice(0, MAX_DOMAINS);
}

function readOptions(words: readonly string[], conf: ResolvConf): void {
  for (const word of words) {
    const [, option, value] = /^(timeout|attempts):(\d{1,3})$/.exec(word) ?? [];
    if (option === 'timeout') conf.timeoutSeconds = Number(value);
    else if (option === 'attempts') conf.attempts = Number(value);
    else if (word === 'rotate') conf.rotate = true;
  }
}

/** The current files. */
export function readResolverFiles(paths = PATHS): ResolverFiles {
  return { resolvConf: readFile(paths.resolvConf), hosts: readFile(paths.hosts) };
}

function readFile(path: string): string | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK); // no fifo is waited for
  } catch (cause) {
    // no file means no resolvers, as for every libc
    return ABSENT.includes((cause as NodeJS.ErrnoException).code ?? '') ? '' : null;
  }
  try {
    const buffer = Buffer.alloc(MAX_BYTES);
    let length = 0;
    for (let n = -1; n !== 0 && length < MAX_BYTES; length += n) n = readSync(fd, buffer, length, MAX_BYTES - length, null);
    return buffer.toString('latin1', 0, length);
  } catch {
    return ''; // a directory, or a file that fails
  } finally {
    closeSync(fd);
  }
}

/**
 * The server as node:net and node:dgram connect to it: they find a zone by the name of its interface only, and
 * resolv.conf may have its number (`fe80::53%2`, RFC 4007 11.2).
 */
export function withNamedZone(server: string, readInterfaces = interfacesNow): string {
  const [, address, zone] = /^(.*)%(\d+)$/.exec(server) ?? [];
  if (zone === undefined) return server;
  const name = Object.entries(readInterfaces()).find(([, addresses]) => addresses?.some((a) => a.family === 'IPv6' && a.scopeid === Number(zone)))?.[0];
  return name === undefined ? server : `${address}%${name}`;
}

/** None while the system does not say, e.g. because no descriptor is left. */
function interfacesNow(): ReturnType<typeof networkInterfaces> {
  try {
    return networkInterfaces();
  } catch {
    return {};
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
    socket.connect(53, withNamedZone(server), ((error?: Error) => {
      if (error) return done(false);
      send();
      retry = setTimeout(send, timeoutMs / 2);
    }) as () => void);
  });
}

/**
 * Calls back after every change of the files, also if one is replaced or becomes a symbolic link. Their directories are
 * watched for a fast reaction; the files are also polled every second, as changes behind a link or mount raise no
 * event. Returns a function that stops watching.
 */
export function watchResolvers(onChange: () => void, paths: readonly string[] = Object.values(PATHS)): () => void {
  const watchers: FSWatcher[] = [];
  const changed = (): void => onChange();
  const targets = paths.flatMap((path) => {
    try {
      return [path, realpathSync(path)];
    } catch {
      return [path]; // a dangling link: only its own directory is watched
    }
  });
  const names = new Set(targets.map((path) => basename(path)));
  for (const directory of new Set(targets.map((path) => dirname(path)))) {
    try {
      const w = watch(directory, (_event, name) => {
        if (name === null || names.has(name)) changed();
      });
      w.on('error', () => {}); // polling continues
      w.unref();
      watchers.push(w);
    } catch {
      // no inotify instance left: polling continues
    }
  }
  let before = versionsOf(paths);
  const endPolls = everySecond(() => {
    const now = versionsOf(paths);
    if (now === before) return;
    before = now;
    changed();
  });
  return () => {
    for (const w of watchers) w.close();
    endPolls();
  };
}

/** Differs after a change of a file. Read at once, as threads of libuv would be woken for it each second. */
function versionsOf(paths: readonly string[]): string {
  return paths
    .map((path) => {
      try {
        const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
        return [dev, ino, size, mtimeNs, ctimeNs].join();
      } catch {
        return '';
      }
    })
    .join(' ');
}
