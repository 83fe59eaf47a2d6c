import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { tryLock } from './ffi/lock.ts';
import { runsWith } from './process.ts';

test.skipIf(process.platform !== 'linux')(
  'B6: a killed process counts as running until it has released its locks, although it loses its arguments earlier',
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'anka-process-'));
    const file = join(dir, 'lock');
    const script =
      "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); b = bytearray(300 << 20); print('ready', flush=True); time.sleep(600)";
    const child = spawn('python3', ['-c', script, file]);
    const pid = child.pid as number;
    await new Promise((resolve) => child.stdout.once('data', resolve));
    expect(await runsWith(pid, file)).toBe(true);
    expect(await runsWith(pid, 'another word')).toBe(false);
    const fd = openSync(file, 'r');
    expect(tryLock(fd)).toBe(false);
    child.kill('SIGKILL');
    while (await runsWith(pid, file)) await setImmediate();
    expect(tryLock(fd)).toBe(true);
    closeSync(fd);
    rmSync(dir, { recursive: true });
  },
);
