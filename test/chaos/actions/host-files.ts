/** Files of the host change: the resolvers, the date, a full disk. */
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pick } from '../../world/random.ts';
import type { Action } from '../plan.ts';
import { OUTSIDE, type Site } from '../site.ts';

const HOUR = 3600;
const GOOD = `nameserver ${OUTSIDE}\n`;

const resolvers = (name: string, change: (site: Site) => void): Action => ({
  name: `resolv.conf: ${name}`,
  act(site) {
    change(site);
    return () => site.setResolvConf(GOOD);
  },
});

/** Replaces resolv.conf by a link to `target`. */
function link(site: Site, target: string): void {
  const file = join(site.etc, 'resolv.conf');
  rmSync(file, { force: true, recursive: true });
  symlinkSync(target, file);
}

/** Fills the state directory to the last byte. */
function fill(site: Site): string {
  const file = join(site.anka.home, 'filler');
  for (const size of [16 << 20, 1 << 20, 64 << 10, 4096, 1])
    try {
      for (;;) writeFileSync(file, Buffer.alloc(size), { flag: 'a' });
    } catch {
      // it is full, but for smaller pieces
    }
  return file;
}

export const HOST_FILE_ACTIONS: Action[] = [
  resolvers('empty', (site) => site.setResolvConf('')),
  resolvers('removed', (site) => rmSync(join(site.etc, 'resolv.conf'), { force: true, recursive: true })),
  resolvers('silent', (site) => site.setResolvConf('nameserver 203.0.113.53\n')),
  resolvers('silent, then one that answers', (site) => site.setResolvConf(`nameserver 203.0.113.53\n${GOOD}`)),
  resolvers('without a route', (site) => site.setResolvConf('nameserver 2001:db8::53\nnameserver fe80::53%2\nnameserver fe80::53%none\n')),
  resolvers('on the loopback, where none listens', (site) => site.setResolvConf('nameserver 127.0.0.53\n')),
  resolvers('anka’s own gateway', (site) => site.setResolvConf('nameserver 192.168.64.1\n')),
  resolvers('not a resolv.conf', (site) => site.setResolvConf(`\0\xff${'nameserver '.repeat(20_000)}\n`)),
  resolvers('a link to nowhere', (site) => link(site, '/nowhere/resolv.conf')),
  resolvers('a link to itself', (site) => link(site, 'resolv.conf')),
  resolvers('a link to a directory elsewhere', (site) => {
    const dir = join(site.world.dir, 'resolv');
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, 'resolv.conf'), GOOD);
    link(site, join(dir, 'resolv.conf'));
  }),
  resolvers('a directory', (site) => {
    rmSync(join(site.etc, 'resolv.conf'), { force: true, recursive: true });
    mkdirSync(join(site.etc, 'resolv.conf'));
  }),
  {
    name: 'the date jumps, for a while',
    act(site, random) {
      site.setDate(pick(random, [2, -2, 30, -30, 24 * 400]) * HOUR);
      return () => site.setDate(0);
    },
  },
  {
    name: 'the disk is full, for a while',
    act(site) {
      const file = fill(site);
      return () => rmSync(file, { force: true });
    },
  },
  // Sockets of the run directory are not removed: a daemon whose socket is removed is not found again, and a helper
  // process whose control socket is removed is not found by the next daemon.
];
