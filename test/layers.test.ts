/**
 * The import rule of docs/architecture.md: layers point in one direction, and no other file imports the npm packages
 * that one file may import.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const src = fileURLToPath(new URL('../src', import.meta.url));

/** What each directory may import besides itself. */
const ALLOWED: Record<string, string[]> = {
  lib: [],
  wire: ['lib'],
  net: ['lib', 'wire'],
  host: ['lib', 'wire'],
  engine: ['lib', 'wire', 'net', 'host'],
  vm: ['lib', 'host', 'engine/engine.ts'],
  store: ['lib', 'host'],
  api: ['lib', 'host'],
  daemon: ['lib', 'wire', 'net', 'host', 'engine', 'vm', 'store', 'api'],
  cli: ['lib', 'host', 'api/client.ts', 'api/types.ts'],
  controller: ['lib', 'host', 'api/client.ts', 'api/types.ts'],
};

/** npm packages that only these files or directories may import. */
const SOLE: Record<string, string[]> = {
  koffi: ['host/ffi/'],
  '@photostructure/sqlite': ['store/db.ts'],
  'node:sqlite': ['store/db.ts'],
  commander: ['cli/'],
  hono: ['api/', 'controller/http/'],
  '@hono/node-server': ['api/', 'controller/http/'],
  '@hono/zod-openapi': ['api/', 'controller/http/'],
  zod: ['api/', 'controller/http/'],
};

function imports(file: string): string[] {
  return [...readFileSync(file, 'utf8').matchAll(/(?:^|\n)\s*(?:import|export)\s[^'"]*?from\s+['"]([^'"]+)['"]|import\(\s*['"]([^'"]+)['"]\s*\)/g)].map(
    (m) => (m[1] ?? m[2])!,
  );
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.ts') && !f.endsWith('.test.ts'));

/** Strongly connected components of more than one file, or of a file that imports itself (Tarjan). */
function cycles(graph: Map<string, string[]>): string[][] {
  const found: string[][] = [];
  const index = new Map<string, number>();
  const stack: string[] = [];
  const visit = (file: string): number => {
    index.set(file, index.size);
    let lowest = index.size - 1;
    stack.push(file);
    const targets = graph.get(file) ?? [];
    for (const target of targets) {
      if (!index.has(target)) lowest = Math.min(lowest, visit(target));
      else if (stack.includes(target)) lowest = Math.min(lowest, index.get(target)!);
    }
    if (lowest === index.get(file)) {
      const component = stack.splice(stack.indexOf(file));
      if (component.length > 1 || targets.includes(file)) found.push(component.sort());
    }
    return lowest;
  };
  for (const file of graph.keys()) if (!index.has(file)) visit(file);
  return found;
}

test('cycles are found', () => {
  const graph = new Map([
    ['a', ['b', 'e']],
    ['b', ['c']],
    ['c', ['b', 'd']],
    ['d', []],
    ['e', ['e']],
  ]);
  expect(cycles(graph)).toEqual([['b', 'c'], ['e']]);
});

test('no import cycles, types included', () => {
  const graph = new Map(
    files.map((file) => [
      file,
      imports(join(src, file))
        .filter((target) => target.startsWith('.'))
        .map((target) => relative(src, join(src, dirname(file), target))),
    ]),
  );
  expect(cycles(graph).map((files) => files.join(' ↔ '))).toEqual([]);
});

describe('layers', () => {
  test('finds the sources', () => expect(files.length).toBeGreaterThan(5));
  test.each(files)('%s imports only what its layer may', (file) => {
    const layer = file.split('/')[0];
    const allowed = ALLOWED[layer];
    expect(allowed, `src/${layer}/ is not in the layout of docs/architecture.md`).toBeDefined();
    for (const target of imports(join(src, file))) {
      if (!target.startsWith('.')) {
        const sole = Object.entries(SOLE).find(([name]) => target === name || target.startsWith(`${name}/`));
        if (sole)
          expect(
            sole[1].some((s) => file.startsWith(s)),
            `${file} imports ${target}, which only ${sole[1].join(', ')} may`,
          ).toBe(true);
        continue;
      }
      const to = relative(src, join(src, dirname(file), target));
      if (to.startsWith(`${layer}/`)) continue;
      expect(
        allowed!.some((a) => to === a || to.startsWith(`${a}/`)),
        `${file} imports ${to}`,
      ).toBe(true);
    }
  });
});
