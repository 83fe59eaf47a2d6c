import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { run } from './exec.ts';

test('an answer that the program itself doubts is asked for again, and in the end taken as it is', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'anka-exec-'));
  const file = join(dir, 'tries');
  const doubtful = (until: number): Promise<string> =>
    run('sh', ['-c', `echo x >>"$0"; n=$(wc -l <"$0"); [ "$n" -ge ${until} ] || echo "Dump was interrupted" >&2; echo "$n"`, file], { again: /interrupted/ });
  expect(await doubtful(3)).toBe('3\n');
  rmSync(file);
  expect(await doubtful(99)).toBe('5\n');
  rmSync(dir, { recursive: true });
});
