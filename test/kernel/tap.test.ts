/** Taps: created, opened, and connected again to processes that had one which was removed. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { missing } from '../world/world.ts';

const why = missing('root', 'netns', 'tun');
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

test.skipIf(why !== null)(`a process whose tap was removed gets the new one, and no more queues than its card has${why ? ` (${why})` : ''}`, () => {
  const found = JSON.parse(execFileSync('unshare', ['-n', process.execPath, '--import', 'tsx', 'test/world/tap-process.ts'], { cwd: ROOT, encoding: 'utf8' }));
  const of = (multi_queue: boolean, numqueues = 0) => ({
    persist: true,
    user: 1640099999,
    vnet_hdr: true,
    multi_queue,
    ...(multi_queue ? { numqueues } : {}),
  });
  expect(found).toEqual({
    created: [of(false), of(true)],
    inUse: ['opening the tap one failed (errno N): another process has it open', 'process N has no queue of a removed tap'],
    again: [of(false), of(true, 2)],
    bounded: of(true, 2),
    errors: [
      'process N has no queue of a removed tap',
      expect.stringMatching(/^opening the tap none\/such failed \(errno N\)/),
      expect.stringMatching(/^process N cannot be opened \(errno N\)/),
    ],
  });
});
