/** The package as npm installs it: each program is one file, and needs only native packages. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { builtMain } from '../world/built.ts';
import { missing, World } from '../world/world.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const why = missing('root', 'netns');

describe.skipIf(why !== null)(`the package${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let dir: string;
  let installed: string;

  beforeAll(() => {
    builtMain();
    w = new World('tp-');
    dir = w.dir;
    const packed = execFileSync('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', dir], { cwd: ROOT, encoding: 'utf8' }).trim();
    execFileSync('tar', ['xzf', join(dir, packed), '-C', dir]);
    installed = join(dir, 'package');
    const { dependencies, bin } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as Record<string, Record<string, string>>;
    for (const name of Object.keys(dependencies as object)) {
      const link = join(installed, 'node_modules', name);
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(join(ROOT, 'node_modules', name), link);
    }
    symlinkSync(join(installed, bin?.['anka'] as string), join(dir, 'anka'));
  });
  afterAll(() => {
    w?.close();
  });

  function anka(...words: string[]): string {
    return w.host.run(`ANKA_HOME=${dir}/home ${dir}/anka ${words.join(' ')}`);
  }

  test('each program is one file', () => {
    const files = readdirSync(join(installed, 'dist'), { recursive: true, encoding: 'utf8' }).filter((f) => /\.(js|json|txt)$/.test(f));
    expect(files.sort()).toEqual([
      'cli/main.js',
      'cli/package.json',
      'controller/main.js',
      'daemon/main.js',
      'engine/kernel/service/service-main.js',
      'engine/user/process/network-main.js',
      'host/sandbox/fenced-main.js',
      'host/share/share-main.js',
      'licenses.txt',
    ]);
    expect(readdirSync(join(installed, 'node_modules')).sort()).toEqual(['@photostructure', 'koffi']);
  });

  test('list starts the daemon, which daemon stop ends', () => {
    try {
      expect(anka('list')).toContain('creation_date');
      expect(anka('daemon', 'status')).toContain(join(dir, 'home'));
    } finally {
      expect(anka('daemon', 'stop')).toContain('was stopped');
    }
  });

  test('help, completion and the version are in the file; the manual pages are beside it', () => {
    expect(anka('list', '--help')).toContain('Usage: anka list');
    expect(anka('completion', 'bash')).toContain('complete -o default -F _anka anka');
    const { version, man } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')) as { version: string; man: string[] };
    expect(anka('version')).toBe(`anka-net version ${version}\n`);
    expect(readdirSync(join(installed, 'dist/man')).sort()).toEqual(man.map((path) => path.replace('./dist/man/', '')).sort());
  });
});
