import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { manualPages } from './manual.ts';
import type { Session } from './session.ts';
import { buildTree, modifyTree } from './tree.ts';

const root = buildTree(null as unknown as Session);
const pages = manualPages(root, modifyTree(null, 'VM'));

const mandoc = ((): boolean => {
  try {
    execFileSync('sh', ['-c', 'command -v mandoc']);
    return true;
  } catch {
    return false;
  }
})();

describe('manual pages', () => {
  test('one for each command, one for all, one for the daemon', () => {
    expect([...pages.keys()].sort()).toEqual(['anka.1', 'ankad.8', ...root.commands.map((c) => `anka-${c.name()}.1`)].sort());
  });

  test('npm installs them all', () => {
    const { man } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { man: string[] };
    expect(man.sort()).toEqual([...pages.keys()].map((p) => `./dist/man/${p}`).sort());
  });

  test('every option of every command is on its page', () => {
    for (const c of root.commands)
      for (const o of c.options)
        expect(pages.get(`anka-${c.name()}.1`), `${c.name()} ${o.flags}`).toContain(`\\&${(o.long ?? '').slice(1).replaceAll('-', '\\-')}`);
    for (const word of ['port\\-forwarding', 'network\\-card', '\\-vlan', '\\-guest\\-port']) expect(pages.get('anka-modify.1')).toContain(word);
  });

  test.skipIf(!mandoc)(`mandoc finds nothing to say${mandoc ? '' : ' (needs mandoc)'}`, () => {
    const dir = mkdtempSync(join(tmpdir(), 'anka-man-'));
    const paths = [...pages].map(([file, text]) => {
      const folder = join(dir, `man${file.at(-1)}`);
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, file), text);
      return join(folder, file);
    });
    // mandoc looks for the pages that are referred to among the installed ones: those of ours are looked for here
    const ours = (line: string): boolean => {
      const m = /referenced manual not found: Xr (\S+) (\d)/.exec(line);
      return m !== null && pages.has(`${m[1]}.${m[2]}`);
    };
    // lint ends with a status above 0 when it has something to say
    const said = paths.map((path) => {
      try {
        return execFileSync('mandoc', ['-T', 'lint', path]).toString();
      } catch (cause) {
        return (cause as { stdout: Buffer }).stdout.toString();
      }
    });
    rmSync(dir, { recursive: true });
    expect(
      said
        .join('')
        .split('\n')
        .filter((line) => line !== '' && !ours(line)),
    ).toEqual([]);
  });

  test.skipIf(!mandoc)('what a reader sees', () => {
    const dir = mkdtempSync(join(tmpdir(), 'anka-man-'));
    const file = join(dir, 'p');
    const seen = (page: string): string => {
      writeFileSync(file, pages.get(page) as string);
      return execFileSync('mandoc', ['-T', 'ascii', file]).toString().replace(/.\x08/g, '').replace(/\s+/g, ' ');
    };
    expect(seen('anka-create.1')).toContain('anka create [-m SIZE] [-c N] [-d SIZE] [-a PATH] NAME');
    expect(seen('anka-create.1')).toContain('anka create --app ~/debian-12-generic.qcow2 cloud');
    expect(seen('anka-modify.1')).toContain('anka modify VM set network-card');
    expect(seen('anka-nc.1')).toContain("ssh -o ProxyCommand='anka nc %h %p' anka@vm1");
    rmSync(dir, { recursive: true });
  });
});
