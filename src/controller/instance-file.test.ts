import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { newInstance } from './instance.ts';
import { InstanceFile } from './instance-file.ts';

let dir: string;
let path: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'anka-instances-'));
  path = join(dir, 'controller.json');
});
afterEach(() => rmSync(dir, { recursive: true }));

const order = { templateId: 't', templateName: 'n', tag: '', name: '', externalId: '', groupId: '', priority: 1, nameTemplate: '', cpus: 0, ram: 0 };
const instance = newInstance('i', { ...order, rules: [], metadata: {}, script: null }, 5);

test('what was saved is there after a restart, with the id of the node, for the owner only', () => {
  const file = new InstanceFile(path);
  expect(file.stored).toEqual([]);
  file.save([instance]);
  const again = new InstanceFile(path);
  expect(again.stored).toEqual([instance]);
  expect(again.node).toBe(file.node);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readdirSync(dir)).toEqual(['controller.json']);
});

test('a crash while it is written leaves the old content', () => {
  new InstanceFile(path).save([instance]);
  writeFileSync(`${path}.part`, '{"version":1,"no'); // of a process that was killed
  expect(new InstanceFile(path).stored).toEqual([instance]);
  new InstanceFile(path).save([]);
  expect(new InstanceFile(path).stored).toEqual([]);
});

test('a file that cannot be replaced keeps its content', () => {
  const file = new InstanceFile(path);
  file.save([instance]);
  mkdirSync(`${path}.part`); // stands for a directory that cannot be written
  expect(() => file.save([])).toThrow();
  rmSync(`${path}.part`, { recursive: true, force: true });
  expect(new InstanceFile(path).stored).toEqual([instance]);
});

test.each(['', '{', '[]', 'null', '{"version":1}', '{"version":1,"node":"n","instances":[{}]}', '{"version":1,"node":"n","instances":[null]}'])(
  "'%s' is damaged: it is refused and left alone",
  (text) => {
    writeFileSync(path, text);
    expect(() => new InstanceFile(path)).toThrow(`${path} cannot be used: it is damaged`);
    expect(readFileSync(path, 'utf8')).toBe(text);
  },
);

test('a later version is refused', () => {
  writeFileSync(path, '{"version":2,"node":"n","instances":[]}');
  expect(() => new InstanceFile(path)).toThrow('a later version of anka wrote it');
});
