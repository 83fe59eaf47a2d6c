/**
 * A real guest (the tiny one) on root's user engine: QEMU and the network process run as two users, and reach each
 * other (docs/decisions/0012).
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { serve } from '../contract/guest-tools.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, World } from '../world/world.ts';

const why = missing('root', 'netns', 'qemu');

describe.skipIf(why !== null)(`a real guest on root's user engine${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;

  beforeAll(async () => {
    w = new World('ru-');
    anka = new Anka(w, tinyGuest());
    await serve(w.outside, 8080, 'outside');
    await anka.ok('config engine user');
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
    await anka.ok('start vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B10, B12: it has an address and reaches outside; no process that handles guest traffic runs as root', async () => {
    expect(await anka.address('vm1')).toMatch(/^192\.168\.64\.\d+$/);
    expect((await anka.run(['run', 'vm1', 'sh', '-c', 'echo | nc -w 60 10.9.0.1 8080'])).stdout).toMatch(/^outside sees 10\.9\.0\.2\n/);
    const lines = w.host
      .run(`ip netns pids ${w.host.name} | while read p; do echo "$p $(tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; true`)
      .split('\n')
      .filter((l) => /qemu-system|network-main/.test(l));
    const users = lines.map((l) => /^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${l.split(' ')[0]}/status`, 'utf8'))?.[1]);
    expect(users).toHaveLength(2);
    expect(new Set(users).size, users.join(' ')).toBe(2);
    expect(users).not.toContain('0');
  });
});
