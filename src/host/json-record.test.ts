import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { JsonRecord } from './json-record.ts';

describe('JSON record', () => {
  let dir: string;
  let path: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'anka-record-'));
    path = join(dir, 'record.json');
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  it('is empty without a file, and creates none', () => {
    expect(new JsonRecord(path).entries.size).toBe(0);
    expect(existsSync(path)).toBe(false);
  });

  it('is read back by the next process', () => {
    const record = new JsonRecord<{ index: number }>(path);
    record.entries.set('eth0', { index: 2 });
    record.save();
    expect(readFileSync(path, 'utf8')).toBe('{"eth0":{"index":2}}');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect([...new JsonRecord<{ index: number }>(path).entries]).toEqual([['eth0', { index: 2 }]]);
  });

  it('saves a change of an entry in place', () => {
    const record = new JsonRecord<{ index: number }>(path);
    record.entries.set('eth0', { index: 2 });
    record.save();
    (record.entries.get('eth0') as { index: number }).index = 3;
    record.save();
    expect(new JsonRecord<{ index: number }>(path).entries.get('eth0')).toEqual({ index: 3 });
  });

  it('removes the file of an empty record', () => {
    const record = new JsonRecord<string>(path);
    record.entries.set('key', 'value');
    record.save();
    record.entries.clear();
    record.save();
    expect(readdirSync(dir)).toEqual([]);
  });

  it('stays unsaved while it cannot be written, and leaves no part of a file', () => {
    const record = new JsonRecord<string>(join(dir, 'later', 'record.json'));
    record.entries.set('key', 'value');
    expect(() => record.save()).toThrow(/ENOENT/);
    record.trySave();
    expect(record.unsaved).toBe(true);
    mkdirSync(join(dir, 'later'));
    record.trySave();
    expect([record.unsaved, readdirSync(join(dir, 'later'))]).toEqual([false, ['record.json']]);
  });

  it.each(['', '{"eth0":{"in', '[1]', 'null', '7'])('counts a damaged file as empty: %j', (text) => {
    writeFileSync(path, text);
    expect(new JsonRecord(path).entries.size).toBe(0);
  });
});
