import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { examineQcow2, isQcow2 } from './qcow2.ts';

const MIB = 1 << 20;

/** A valid image of 64 MiB: header, reference counts, first table. */
function image(change: (header: Buffer) => void = () => {}): Buffer {
  const b = Buffer.alloc(4096);
  b.writeUInt32BE(0x514649fb, 0);
  b.writeUInt32BE(3, 4);
  b.writeUInt32BE(16, 20); // clusters of 64 KiB
  b.writeBigUInt64BE(64n * BigInt(MIB), 24);
  b.writeUInt32BE(1, 36); // one entry of the first table
  b.writeBigUInt64BE(3n << 16n, 40);
  b.writeBigUInt64BE(1n << 16n, 48); // reference counts
  b.writeUInt32BE(1, 56);
  b.writeUInt32BE(104, 100);
  change(b);
  return b;
}
const FILE = 4 << 16;
const examine = (change?: (header: Buffer) => void, size = FILE) => examineQcow2(image(change), size);

test('a whole image, of both versions', () => {
  expect(examine()).toEqual({ kind: 'whole', virtualSize: 64 * MIB });
  expect(examine((b) => b.writeUInt32BE(2, 4))).toEqual({ kind: 'whole', virtualSize: 64 * MIB });
});

test('a backing file or an external data file is found, whatever the name says', () => {
  const backing = (name: string, at: bigint) => (b: Buffer) => {
    b.writeBigUInt64BE(at, 8);
    b.writeUInt32BE(name.length, 16);
    if (at < 4000n) b.write(name, Number(at));
  };
  for (const name of ['/etc/shadow', 'json:{"driver":"file","filename":"/etc/shadow"}', 'nbd://198.51.100.1/x'])
    expect(examine(backing(name, 600n))).toEqual({ kind: 'refers', name });
  expect(examine(backing('/etc/shadow', 1n << 63n))).toEqual({ kind: 'refers', name: '' });
  expect(examine((b) => b.writeBigUInt64BE(4n, 72))).toEqual({ kind: 'refers', name: '' });
});

test.each<[string, (b: Buffer) => void]>([
  ['version', (b) => b.writeUInt32BE(4, 4)],
  ['cluster size', (b) => b.writeUInt32BE(40, 20)],
  ['encrypted', (b) => b.writeUInt32BE(2, 32)],
  ['unknown features', (b) => b.writeBigUInt64BE(1n << 40n, 72)],
  ['first table has 4294967295 entries', (b) => b.writeUInt32BE(0xffffffff, 36)],
  ['first table has 1 entries', (b) => b.writeBigUInt64BE(1n << 60n, 24)],
  ['first table is beyond', (b) => b.writeBigUInt64BE(1n << 40n, 40)],
  ['first table cannot', (b) => b.writeBigUInt64BE(12345n, 40)],
  ['reference counts cannot', (b) => b.writeUInt32BE(0xffffffff, 56)],
  ['reference counts is beyond', (b) => b.writeBigUInt64BE(1n << 62n, 48)],
])('damaged: %s', (why, change) => {
  expect(examine(change)).toEqual({ kind: 'damaged', why: expect.stringContaining(why) });
});

test('any bytes, cut anywhere: an answer, never an exception', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(4096), fc.nat(2 ** 31 - 1), (noise, cut, size) => {
      const b = image();
      b.set(noise, 4);
      const found = examineQcow2(b.subarray(0, cut), size);
      if (found.kind === 'whole') expect(found.virtualSize).toBeGreaterThanOrEqual(0);
      if (cut < 104 && b.readUInt32BE(4) === 3) expect(found.kind).toBe('damaged');
    }),
  );
});

describe.skipIf(spawnSync('qemu-img', ['--version']).error !== undefined)('images of qemu-img', () => {
  let dir = '';
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'anka-qcow2-'));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  const create = (name: string, ...words: string[]): { head: Buffer; size: number } => {
    const path = join(dir, name);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...words.filter((w) => w.startsWith('-')).flatMap((w) => w.split(' ')), path, words.at(-1)!]);
    const bytes = readFileSync(path);
    return { head: bytes.subarray(0, 4096), size: bytes.length };
  };

  test.each([
    ['1G'],
    ['-o compat=0.10', '1G'],
    ['-o cluster_size=512', '64M'],
    ['-o cluster_size=2M', '64T'],
    ['-o extended_l2=on,cluster_size=128k', '20G'],
    ['-o compression_type=zstd,lazy_refcounts=on', '3G'],
  ])('%s %s', (...words) => {
    const { head, size } = create('a.qcow2', ...words);
    expect(isQcow2(head)).toBe(true);
    const [, digits, unit] = /(\d+)(\w)/.exec(words.at(-1)!)!;
    expect(examineQcow2(head, size)).toEqual({ kind: 'whole', virtualSize: Number(digits) * 1024 ** { M: 2, G: 3, T: 4 }[unit as 'M'] });
  });

  test('backing file and data file', () => {
    writeFileSync(join(dir, 'secret'), Buffer.alloc(MIB));
    const backed = create('b.qcow2', '-F raw', `-b ${dir}/secret`, '1G');
    expect(examineQcow2(backed.head, backed.size)).toEqual({ kind: 'refers', name: `${dir}/secret` });
    const external = create('c.qcow2', `-o data_file=${dir}/data`, '1G');
    expect(examineQcow2(external.head, external.size)).toEqual({ kind: 'refers', name: '' });
  });
});
