/**
 * Paths and links in README.md, CONTRIBUTING.md and docs/ lead to files that exist. docs/architecture.md lists every
 * directory of src.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const pages = execFileSync('git', ['ls-files', 'README.md', 'CONTRIBUTING.md', 'docs/*.md'], { cwd: root, encoding: 'utf8' }).trim().split('\n');

/** Paths from the top of the repository, in prose and in code spans. */
const PATH = /(?<![\w./-])(?:src|test|scripts|bench|bpf|docs|assets|packaging)\/[\w./*{},-]*[\w/*}]/g;
/** Markdown links and images; group 1 is the target. */
const LINK = /\]\(([^)\s]+)\)/g;

/** `a/{b,c}.ts` is `a/b.ts` and `a/c.ts`. */
function expand(path: string): string[] {
  const braces = /^(.*?)\{([^{}]*)\}(.*)$/.exec(path);
  return braces === null ? [path] : braces[2].split(',').flatMap((choice) => expand(`${braces[1]}${choice}${braces[3]}`));
}

/** A pattern with `*` names at least one tracked file. */
const exists = (path: string) =>
  path.includes('*') ? execFileSync('git', ['ls-files', '--', path], { cwd: root, encoding: 'utf8' }) !== '' : existsSync(join(root, path));

/** The anchor that GitHub gives a heading. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');

function anchors(page: string): string[] {
  return [...readFileSync(page, 'utf8').matchAll(/^#+ (.+)$/gm)].map((m) => anchor(m[1]));
}

describe.each(pages)('%s', (page) => {
  const text = readFileSync(join(root, page), 'utf8');

  test('names paths that exist', () => {
    const broken = [...text.matchAll(PATH)].flatMap((m) => expand(m[0])).filter((path) => !exists(path));
    expect(broken).toEqual([]);
  });

  test('has no broken links', () => {
    const broken = [...text.matchAll(LINK)]
      .map((m) => m[1])
      .filter((target) => !/^[a-z]+:/.test(target))
      .filter((target) => {
        const [path, section] = target.split('#');
        const file = path === '' ? join(root, page) : join(root, dirname(page), path!);
        return !existsSync(file) || (section !== undefined && !anchors(file).includes(section));
      });
    expect(broken).toEqual([]);
  });
});

test('docs/architecture.md lists every directory of src', () => {
  const text = readFileSync(join(root, 'docs/architecture.md'), 'utf8');
  const sources = execFileSync('git', ['ls-files', 'src'], { cwd: root, encoding: 'utf8' }).trim().split('\n');
  const missing = [...new Set(sources.map(dirname))].filter((directory) => directory !== 'src' && !text.includes(`\`${directory}/\``));
  expect(missing).toEqual([]);
});
