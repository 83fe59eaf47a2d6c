/** The server on a directory, driven by packets, and attacked by links and renames. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SFTP, SFTP_OPEN, SFTP_STATUS, SftpError, SftpReader, SftpWriter } from '../../wire/sftp.ts';
import { FileServer } from './file-server.ts';

const { ok, endOfFile, noSuchFile, permissionDenied, failure, badMessage, unsupported } = SFTP_STATUS;
const SECRET = 'a file outside';

let dir: string;
let shared: string;
let root: number;
let server: FileServer;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'anka-share-'));
  shared = join(dir, 'shared');
  mkdirSync(shared);
  writeFileSync(join(dir, 'secret'), SECRET);
  mkdirSync(join(dir, 'outside'));
  writeFileSync(join(dir, 'outside', 'file'), SECRET);
  root = openSync(shared, 'r');
  server = new FileServer(root, false);
});

afterEach(() => {
  server.close();
  closeSync(root);
  rmSync(dir, { recursive: true, force: true });
});

/** Sends a request, and returns its answer from the status or content on. */
function ask(type: number, build: (w: SftpWriter) => SftpWriter, on = server): { type: number; r: SftpReader } {
  const answer = on.answer(build(new SftpWriter(type).uint32(7)).end().subarray(4));
  const r = new SftpReader(answer.subarray(4));
  const answered = r.byte();
  expect(r.uint32()).toBe(7);
  return { type: answered, r };
}

/** The status of an answer; -1 if it has content. */
function statusOf(type: number, build: (w: SftpWriter) => SftpWriter, on = server): number {
  const a = ask(type, build, on);
  return a.type === SFTP.status ? a.r.uint32() : -1;
}

function open(path: string, flags: number = SFTP_OPEN.read, on = server): string | number {
  const a = ask(SFTP.open, (w) => w.string(path).uint32(flags).uint32(0), on);
  return a.type === SFTP.handle ? a.r.string() : a.r.uint32();
}

function read(path: string): string | number {
  const handle = open(path);
  if (typeof handle === 'number') return handle;
  const a = ask(SFTP.read, (w) => w.string(handle).uint64(0).uint32(1000));
  statusOf(SFTP.close, (w) => w.string(handle));
  return a.type === SFTP.data ? a.r.bytes().toString('latin1') : a.r.uint32();
}

function write(path: string, text: string, on = server): number {
  const handle = open(path, SFTP_OPEN.write | SFTP_OPEN.create | SFTP_OPEN.truncate, on);
  if (typeof handle === 'number') return handle;
  const status = statusOf(SFTP.write, (w) => w.string(handle).uint64(0).string(text), on);
  statusOf(SFTP.close, (w) => w.string(handle), on);
  return status;
}

function list(path: string): string[] | number {
  const opened = ask(SFTP.opendir, (w) => w.string(path));
  if (opened.type === SFTP.status) return opened.r.uint32();
  const handle = opened.r.string();
  const names: string[] = [];
  for (;;) {
    const a = ask(SFTP.readdir, (w) => w.string(handle));
    if (a.type === SFTP.status) {
      expect(a.r.uint32()).toBe(endOfFile);
      break;
    }
    for (let left = a.r.uint32(); left > 0; left--) {
      names.push(a.r.string());
      a.r.string();
      a.r.attributes();
    }
  }
  expect(statusOf(SFTP.close, (w) => w.string(handle))).toBe(ok);
  return names.sort();
}

const extended = (name: string, ...paths: string[]) => statusOf(SFTP.extended, (w) => paths.reduce((out, p) => out.string(p), w.string(name)));
const changeMode = (path: string, mode: number) => statusOf(SFTP.setstat, (w) => w.string(path).uint32(4).uint32(mode));

describe('serves', () => {
  test('the protocol’s version and its extensions', () => {
    const r = new SftpReader(server.answer(Buffer.from([SFTP.init, 0, 0, 0, 3])).subarray(4));
    expect([r.byte(), r.uint32(), r.string()]).toEqual([SFTP.version, 3, 'posix-rename@openssh.com']);
  });

  test('files: written, read at an offset, appended to, cut, and their attributes', () => {
    expect(write('/a', 'hello')).toBe(ok);
    expect(read('a')).toBe('hello');
    const handle = open('/a', SFTP_OPEN.read | SFTP_OPEN.write) as string;
    expect(
      ask(SFTP.read, (w) => w.string(handle).uint64(3).uint32(10))
        .r.bytes()
        .toString(),
    ).toBe('lo');
    expect(statusOf(SFTP.read, (w) => w.string(handle).uint64(5).uint32(10))).toBe(endOfFile);
    expect(statusOf(SFTP.fsetstat, (w) => w.string(handle).uint32(1).uint64(2))).toBe(ok);
    expect(ask(SFTP.fstat, (w) => w.string(handle)).r.attributes()).toMatchObject({ size: 2, permissions: 0o100644 });
    expect(extended('fsync@openssh.com', handle)).toBe(ok);
    expect(statusOf(SFTP.close, (w) => w.string(handle))).toBe(ok);
    expect(statusOf(SFTP.close, (w) => w.string(handle))).toBe(failure);
    expect(statusOf(SFTP.setstat, (w) => w.string('a').uint32(9).uint64(4).uint32(100).uint32(200))).toBe(ok);
    expect(statSync(join(shared, 'a'))).toMatchObject({ size: 4, mtimeMs: 200_000 });
  });

  test('directories of any size, and names that are not UTF-8', () => {
    expect(statusOf(SFTP.mkdir, (w) => w.string('/d').uint32(0))).toBe(ok);
    expect(list('/d')).toEqual([]);
    const names = Array.from({ length: 250 }, (_, i) => `d/${i}`);
    for (const n of names) writeFileSync(join(shared, n), '');
    expect(list('d')).toHaveLength(250);
    const odd = Buffer.from([0xff, 0xfe]).toString('latin1');
    expect(write(`/${odd}`, 'x')).toBe(ok);
    expect(existsSync(Buffer.from(`${shared}/${odd}`, 'latin1'))).toBe(true);
    expect(list('/')).toEqual(['d', odd]);
    expect(statusOf(SFTP.rmdir, (w) => w.string('d'))).toBe(failure);
    for (const n of names) expect(statusOf(SFTP.remove, (w) => w.string(n))).toBe(ok);
    expect(statusOf(SFTP.rmdir, (w) => w.string('d'))).toBe(ok);
  });

  test('renames, hard links and links, whose target is only text', () => {
    write('/a', 'first');
    write('/b', 'second');
    expect(statusOf(SFTP.rename, (w) => w.string('a').string('b'))).toBe(failure);
    expect(extended('posix-rename@openssh.com', 'a', 'b')).toBe(ok);
    expect(extended('hardlink@openssh.com', 'b', 'c')).toBe(ok);
    expect([read('b'), read('c'), read('a')]).toEqual(['first', 'first', noSuchFile]);
    expect(statusOf(SFTP.symlink, (w) => w.string('/etc/passwd').string('l'))).toBe(ok);
    expect(readlinkSync(join(shared, 'l'))).toBe('/etc/passwd');
    const a = ask(SFTP.readlink, (w) => w.string('l'));
    expect([a.r.uint32(), a.r.string()]).toEqual([1, '/etc/passwd']);
    expect(extended('statvfs@openssh.com', '/')).toBe(-1);
  });

  test('no setuid bit, and no other owner', () => {
    write('/a', '');
    expect(changeMode('/a', 0o6755)).toBe(ok);
    expect(statSync(join(shared, 'a')).mode & 0o7777).toBe(0o755);
    expect(statusOf(SFTP.setstat, (w) => w.string('a').uint32(2).uint32(0).uint32(0))).toBe(permissionDenied);
  });
});

describe('read-only', () => {
  test('refuses every change, and nothing changes', () => {
    write('/a', 'kept');
    mkdirSync(join(shared, 'd'));
    const ro = new FileServer(root, true);
    const refused = [
      write('/a', 'changed', ro),
      write('/new', '', ro),
      statusOf(SFTP.remove, (w) => w.string('a'), ro),
      statusOf(SFTP.rmdir, (w) => w.string('d'), ro),
      statusOf(SFTP.mkdir, (w) => w.string('e').uint32(0), ro),
      statusOf(SFTP.rename, (w) => w.string('a').string('b'), ro),
      statusOf(SFTP.symlink, (w) => w.string('a').string('l'), ro),
      statusOf(SFTP.setstat, (w) => w.string('a').uint32(4).uint32(0), ro),
      statusOf(SFTP.extended, (w) => w.string('posix-rename@openssh.com').string('a').string('b'), ro),
      statusOf(SFTP.extended, (w) => w.string('hardlink@openssh.com').string('a').string('b'), ro),
    ];
    const handle = open('/a', SFTP_OPEN.read, ro) as string;
    refused.push(statusOf(SFTP.write, (w) => w.string(handle).uint64(0).string('x'), ro));
    refused.push(statusOf(SFTP.fsetstat, (w) => w.string(handle).uint32(1).uint64(0), ro));
    expect(new Set(refused)).toEqual(new Set([permissionDenied]));
    expect([read('/a'), list('/')]).toEqual(['kept', ['a', 'd']]);
    ro.close();
  });
});

describe('an attacker reaches nothing outside', () => {
  test('by `..`, absolute paths, or links anywhere in a path', () => {
    symlinkSync(dir, join(shared, 'up'));
    symlinkSync(join(dir, 'secret'), join(shared, 'to-secret'));
    symlinkSync('/proc/self/root', join(shared, 'magic'));
    const paths = [
      '../secret',
      '/../secret',
      'a/../../secret',
      'up/secret',
      'up/outside/file',
      'to-secret',
      `${dir}/secret`,
      'magic/etc/passwd',
      'up/shared/../secret',
    ];
    for (const path of paths) {
      expect([path, typeof read(path)]).toEqual([path, 'number']);
      expect([path, write(path, 'overwritten')]).not.toEqual([path, ok]);
      if (path !== 'to-secret') expect([path, statusOf(SFTP.lstat, (w) => w.string(path))]).not.toEqual([path, -1]);
    }
    for (const path of ['up', '../', 'magic', 'up/outside']) expect([path, typeof list(path)]).toEqual([path, 'number']);
    expect(statusOf(SFTP.remove, (w) => w.string('up/secret'))).toBe(noSuchFile);
    expect(extended('posix-rename@openssh.com', 'up/secret', 'stolen')).toBe(noSuchFile);
    expect(extended('hardlink@openssh.com', 'up/secret', 'stolen')).toBe(noSuchFile);
    expect(extended('hardlink@openssh.com', '../secret', 'stolen')).toBe(permissionDenied);
    expect(extended('posix-rename@openssh.com', 'to-secret', '../moved')).toBe(permissionDenied);
    expect(changeMode('to-secret', 0o777)).not.toBe(ok);
    expect(statusOf(SFTP.setstat, (w) => w.string('to-secret').uint32(1).uint64(0))).not.toBe(ok);
    expect(readFileSync(join(dir, 'secret'), 'utf8')).toBe(SECRET);
  });

  test('by a hard link to a link: the link itself is linked', () => {
    symlinkSync(join(dir, 'secret'), join(shared, 'l'));
    expect(extended('hardlink@openssh.com', 'l', 'm')).toBe(ok);
    expect(readlinkSync(join(shared, 'm'))).toBe(join(dir, 'secret'));
  });

  test('by fifos, devices and sockets: they are not opened, and nothing waits', () => {
    execFileSync('mkfifo', [join(shared, 'fifo')]);
    expect([open('fifo'), open('fifo', SFTP_OPEN.write)]).toEqual([permissionDenied, permissionDenied]);
    if (process.getuid?.() === 0) {
      execFileSync('mknod', [join(shared, 'zero'), 'c', '1', '5']);
      expect([open('zero'), open('zero', SFTP_OPEN.write)]).toEqual([permissionDenied, permissionDenied]);
    }
  });

  test('by replacing a directory with a link, as fast as it can, while requests run', async () => {
    mkdirSync(join(shared, 'd'));
    writeFileSync(join(shared, 'd', 'file'), 'inside');
    const racer = new Worker(
      `const { renameSync, symlinkSync, unlinkSync } = require('node:fs');
       const { workerData: { shared, outside }, parentPort } = require('node:worker_threads');
       let rounds = 0;
       parentPort.on('message', () => {});
       const end = Date.now() + 2000;
       while (Date.now() < end) {
         renameSync(shared + '/d', shared + '/x');
         symlinkSync(outside, shared + '/d');
         unlinkSync(shared + '/d');
         renameSync(shared + '/x', shared + '/d');
         rounds++;
       }
       parentPort.postMessage(rounds);
       parentPort.close();`,
      { eval: true, workerData: { shared, outside: join(dir, 'outside') } },
    );
    let rounds = 0;
    const done = new Promise<void>((resolve) =>
      racer.once('message', (n: number) => {
        rounds = n;
        resolve();
      }),
    );
    let isDone = false;
    void done.then(() => (isDone = true));
    const found = new Set<string | number>();
    while (!isDone) {
      for (let i = 0; i < 200; i++) {
        found.add(read('d/file'));
        found.add(write('d/new', 'x'));
        found.add(statusOf(SFTP.mkdir, (w) => w.string('d/dir').uint32(0)));
        statusOf(SFTP.rmdir, (w) => w.string('d/dir'));
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    await done;
    expect(rounds).toBeGreaterThan(100);
    expect(found).toContain('inside');
    expect(found).toContain(noSuchFile); // the race was met
    expect(found).not.toContain(SECRET);
    expect(readFileSync(join(dir, 'outside', 'file'), 'utf8')).toBe(SECRET);
    expect([existsSync(join(dir, 'outside', 'new')), existsSync(join(dir, 'outside', 'dir'))]).toEqual([false, false]);
  });

  test('by a directory that is moved out: its path is gone, and an open one shows only itself', () => {
    mkdirSync(join(shared, 'd'));
    writeFileSync(join(shared, 'd', 'file'), 'inside');
    renameSync(join(shared, 'd'), join(dir, 'd'));
    expect([read('d/file'), list('d')]).toEqual([noSuchFile, noSuchFile]);
    linkSync(join(dir, 'secret'), join(dir, 'd', 'linked'));
    expect(read('d/linked')).toBe(noSuchFile);
  });
});

describe('a hostile client', () => {
  test('gets an error for what the protocol does not have, and for what is cut', () => {
    expect(statusOf(99, (w) => w)).toBe(unsupported);
    expect(statusOf(SFTP.open, (w) => w.uint32(0xffffffff))).toBe(badMessage);
    expect(statusOf(SFTP.read, (w) => w.string('0').uint64(0).uint32(1))).toBe(failure);
    expect(statusOf(SFTP.remove, (w) => w.string('/'))).toBe(permissionDenied);
    expect(() => server.answer(Buffer.from([SFTP.open, 0]))).toThrow(SftpError);
  });

  test('has a bounded number of handles, and gets at most 255 KiB at once', () => {
    writeFileSync(join(shared, 'large'), Buffer.alloc(1 << 20));
    const handles = Array.from({ length: 1024 }, () => open('large'));
    expect(handles.every((h) => typeof h === 'string')).toBe(true);
    expect([open('large'), statusOf(SFTP.opendir, (w) => w.string('/'))]).toEqual([failure, failure]);
    expect(
      ask(SFTP.read, (w) =>
        w
          .string(handles[0] as string)
          .uint64(0)
          .uint32(0xffffffff),
      ).r.bytes(),
    ).toHaveLength(255 << 10);
    server.close();
    expect(typeof open('large')).toBe('string');
  });

  test('any bytes give an answer or an SftpError, and leave what is outside alone', () => {
    chmodSync(shared, 0o755);
    const type = fc.constantFrom(...Object.values(SFTP));
    const field = fc.oneof(
      fc.constantFrom('..', '/', 'a', 'a/b', '../secret', 'up/secret', '').map((s) => new SftpWriter(0).string(s).end().subarray(5)),
      fc.uint8Array({ maxLength: 12 }).map((b) => Buffer.from(b)),
    );
    symlinkSync(dir, join(shared, 'up'));
    fc.assert(
      fc.property(type, fc.array(field, { maxLength: 5 }), (t, fields) => {
        const packet = Buffer.concat([Buffer.from([t, 0, 0, 0, 1]), ...fields]);
        try {
          expect(server.answer(packet).length).toBeGreaterThan(4);
        } catch (cause) {
          expect(cause).toBeInstanceOf(SftpError);
        }
      }),
      { numRuns: 5000 },
    );
    expect([readFileSync(join(dir, 'secret'), 'utf8'), existsSync(join(dir, 'outside', 'file'))]).toEqual([SECRET, true]);
  });
});
