import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { visibleCommands, visibleOptions } from '../tree/command.ts';
import { modifyTree } from '../tree/modify.ts';
import { buildTree } from '../tree/tree.ts';
import { manualPages } from './manual.ts';

const root = buildTree(null);
const pages = manualPages(root, modifyTree(null, 'VM'));

const mandoc = ((): boolean => {
  try {
    execFileSync('sh', ['-c', 'command -v mandoc']);
    return true;
  } catch {
    return false;
  }
})();

describe('man pages', () => {
  test('there is one for each command, one for anka, and one for ankad', () => {
    expect([...pages.keys()].sort()).toEqual(['anka.1', 'ankad.8', ...visibleCommands(root).map((c) => `anka-${c.name()}.1`)].sort());
  });

  test('package.json lists them all for npm to install', () => {
    const { man } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { man: string[] };
    expect(man.sort()).toEqual([...pages.keys()].map((p) => `./dist/man/${p}`).sort());
  });

  test('every option of every command is on its page', () => {
    for (const c of visibleCommands(root))
      for (const o of visibleOptions(c))
        expect(pages.get(`anka-${c.name()}.1`), `${c.name()} ${o.flags}`).toContain(`\\&${(o.long ?? '').slice(1).replaceAll('-', '\\-')}`);
    for (const word of ['port\\-forwarding', 'network\\-card', '\\-vlan', '\\-guest\\-port']) expect(pages.get('anka-modify.1')).toContain(word);
  });

  test.skipIf(!mandoc)(`mandoc has no complaint${mandoc ? '' : ' (needs mandoc)'}`, () => {
    const dir = mkdtempSync(join(tmpdir(), 'anka-man-'));
    const paths = [...pages].map(([file, text]) => {
      const dirOfSection = join(dir, `man${file.at(-1)}`);
      mkdirSync(dirOfSection, { recursive: true });
      writeFileSync(join(dirOfSection, file), text);
      return join(dirOfSection, file);
    });
    // mandoc looks for referenced pages among the installed ones; references between these pages are checked here
    const isOurs = (line: string): boolean => {
      const m = /referenced manual not found: Xr (\S+) (\d)/.exec(line);
      return m !== null && pages.has(`${m[1]}.${m[2]}`);
    };
    // mandoc exits with a status above 0 when it has a complaint
    const complaints = paths.map((path) => {
      try {
        return execFileSync('mandoc', ['-T', 'lint', path]).toString();
      } catch (cause) {
        return (cause as { stdout: Buffer }).stdout.toString();
      }
    });
    rmSync(dir, { recursive: true });
    expect(
      complaints
        .join('')
        .split('\n')
        .filter((line) => line !== '' && !isOurs(line)),
    ).toEqual([]);
  });

  test.skipIf(!mandoc)('mandoc renders synopsis and examples', () => {
    const dir = mkdtempSync(join(tmpdir(), 'anka-man-'));
    const file = join(dir, 'p');
    const rendered = (page: string): string => {
      writeFileSync(file, pages.get(page) as string);
      return execFileSync('mandoc', ['-T', 'ascii', file]).toString().replace(/.\x08/g, '').replace(/\s+/g, ' ');
    };
    expect(rendered('anka-create.1')).toContain('anka create [-m SIZE] [-c N] [-d SIZE] [-a PATH] [NAME] [IMAGE]');
    expect(rendered('anka-create.1')).toContain('anka create --app ~/debian-12-generic.qcow2 cloud');
    expect(rendered('anka-modify.1')).toContain('anka modify VM set network-card');
    expect(rendered('anka-nc.1')).toContain("ssh -o ProxyCommand='anka nc %h %p' anka@vm1");
    rmSync(dir, { recursive: true });
  });
});
