/** docs/criteria.md lists every criterion (B1, B2, …) that the repository cites. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const PAGE = 'docs/criteria.md';

const listed = new Set([...readFileSync(join(root, PAGE), 'utf8').matchAll(/^\| (B\d+) +\|/gm)].map((m) => m[1]));
const files = execFileSync('git', ['ls-files', '*.ts', '*.mjs', '*.md', '*.c', '*.sh', '*.py'], { cwd: root, encoding: 'utf8' })
  .trim()
  .split('\n')
  .filter((file) => file !== PAGE);

test('every cited criterion is listed', () => {
  const missing = files.flatMap((file) =>
    [...readFileSync(join(root, file), 'utf8').matchAll(/\bB[1-9]\d{0,2}\b/g)].filter((m) => !listed.has(m[0])).map((m) => `${file}: ${m[0]}`),
  );
  expect([...new Set(missing)], `not listed in ${PAGE}`).toEqual([]);
  expect(listed.size).toBeGreaterThan(50);
});
