/**
 * Rows of docs/conformance.md and docs/security.md name their proof: tests that exist, as `file`: title, or `none:` and
 * the reason.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

/** One proof: `path`: a test's title, or part of it, up to a semicolon or the end. */
const PROOF = /`([^`]+\.test\.ts)`: ([^;]+)/g;
/** A table's cell ends at a bar that no backslash precedes. */
const CELL = /(?<!\\)\|/;
/** A title's part shorter than this proves little (characters). */
const SHORTEST_TITLE = 8;

/** The cells of every row below a heading row whose last cell is `proof`. */
function rows(page: string): string[][] {
  const found: string[][] = [];
  let inTable = false;
  for (const line of readFileSync(join(root, page), 'utf8').split('\n')) {
    if (!line.startsWith('|')) {
      inTable = false;
      continue;
    }
    const cells = line
      .split(CELL)
      .slice(1, -1)
      .map((cell) => cell.trim());
    if (cells.at(-1) === 'proof') inTable = true;
    else if (inTable && !/^[-: ]+$/.test(cells[0]!)) found.push(cells);
  }
  return found;
}

/** What is wrong with a proof; undefined if nothing is. */
function fault(proof: string): string | undefined {
  if (/^none: \S/.test(proof)) return undefined;
  const cited = [...proof.matchAll(PROOF)];
  if (cited.length === 0) return 'no proof';
  for (const [, file, title] of cited) {
    const path = join(root, file!);
    const words = title!.trim().replaceAll('\\|', '|');
    if (!existsSync(path)) return `${file} does not exist`;
    if (words.length < SHORTEST_TITLE) return `"${words}" is too short`;
    if (!readFileSync(path, 'utf8').replaceAll("\\'", "'").includes(words)) return `${file} has no test "${words}"`;
  }
  return undefined;
}

describe.each(['docs/conformance.md', 'docs/security.md'].filter((page) => existsSync(join(root, page))))('%s', (page) => {
  test('each row names a test that exists, or why there is none', () => {
    const faults = rows(page).flatMap((cells) => {
      const wrong = fault(cells.at(-1)!);
      return wrong === undefined ? [] : [`${cells.slice(0, 2).join(' ')}: ${wrong}`];
    });
    expect(faults).toEqual([]);
  });

  test('each row says how both engines do', () => {
    const unclear = rows(page).filter((cells) => cells.length === 5 && !cells.slice(2, 4).every((cell) => /^(yes|no|part|n\/a)$/.test(cell)));
    expect(unclear).toEqual([]);
  });
});
