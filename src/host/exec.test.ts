import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { run } from './exec.ts';

test('output that the program reports as incomplete is read again, and taken as it is after five attempts', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'anka-exec-'));
  const file = join(dir, 'attempts');
  const interrupted = (until: number): Promise<string> =>
    run('sh', ['-c', `echo x >>"$0"; n=$(wc -l <"$0"); [ "$n" -ge ${until} ] || echo "Dump was interrupted" >&2; echo "$n"`, file], { retryOn: /interrupted/ });
  expect(await interrupted(3)).toBe('3\n');
  rmSync(file);
  expect(await interrupted(99)).toBe('5\n');
  rmSync(dir, { recursive: true });
});

test('a program that hangs is killed after its limit, also if it ignores SIGTERM', async () => {
  await expect(run('sh', ['-c', 'trap "" TERM; while :; do sleep 1; done'], { timeout: 200 })).rejects.toThrow('did not exit within 200 ms');
});
