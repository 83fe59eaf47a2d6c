/**
 * An SFTP server on one directory: each request of a client, carried out at once.
 *
 * Theory of operation: paths are relative to the directory, whether they begin with a slash or not (beneath.ts). No
 * link is followed: a client that meets one reads its target, and resolves it on its own side. Only regular files are
 * opened. What the process may do decides whether a request succeeds; a read-only server also refuses every change
 * itself.
 *
 * Limits: a client has at most `MAX_HANDLES` open files and directories. Owners cannot be changed, and files of a guest
 * get no setuid or setgid bit: they belong to this process's user. A request that cannot be parsed is answered if it
 * has an id; a packet without one throws `SftpError`.
 */
import {
  chmodSync,
  closeSync,
  constants,
  type Dir,
  fchmodSync,
  fdatasyncSync,
  fstatSync,
  ftruncateSync,
  futimesSync,
  linkSync,
  lstatSync,
  mkdirSync,
  opendirSync,
  openSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  type Stats,
  statfsSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { MAX_READ, SFTP, SFTP_OPEN, SFTP_STATUS, type SftpAttributes, SftpError, SftpReader, SftpWriter } from '../../wire/sftp.ts';
import { inDirectory, inParent, namesOf, ofDescriptor, openDirectory, systemError } from './beneath.ts';

/** Open files and directories of a client. */
const MAX_HANDLES = 1024;
/** Entries of a directory in one answer. */
const ENTRIES = 100;
const O_PATH = 0o10000000;
/** No link is followed, and no fifo waited for. */
const CAREFUL = constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY;
const PERMISSIONS = 0o777;
const NEW_FILE = 0o644;
const NEW_DIRECTORY = 0o755;

/** Extensions of OpenSSH, with their versions. */
const EXTENSIONS: Record<string, string> = {
  'posix-rename@openssh.com': '1',
  'statvfs@openssh.com': '2',
  'fstatvfs@openssh.com': '2',
  'hardlink@openssh.com': '1',
  'fsync@openssh.com': '1',
};

/** Status by the code of a system error; others are a failure. */
const STATUS: Record<string, number> = {
  ENOENT: SFTP_STATUS.noSuchFile,
  ENOTDIR: SFTP_STATUS.noSuchFile,
  ENAMETOOLONG: SFTP_STATUS.noSuchFile,
  EACCES: SFTP_STATUS.permissionDenied,
  EPERM: SFTP_STATUS.permissionDenied,
  EROFS: SFTP_STATUS.permissionDenied,
  ENOSYS: SFTP_STATUS.unsupported,
  EBADMSG: SFTP_STATUS.badMessage,
};

/** An open file, or a directory with what is read of it next. */
type Handle = { kind: 'file'; fd: number } | { kind: 'directory'; fd: number; dir: Dir };

type Request = (r: SftpReader, id: number) => Buffer;

export class FileServer {
  readonly #root: number;
  readonly #readOnly: boolean;
  readonly #handles = new Map<number, Handle>();
  #nextHandle = 0;

  /** `root`: the directory, an open descriptor. */
  constructor(root: number, readOnly: boolean) {
    this.#root = root;
    this.#readOnly = readOnly;
  }

  /** Carries out one request, and returns the answer. Throws `SftpError` if the packet has no type and id. */
  answer(packet: Buffer): Buffer {
    const r = new SftpReader(packet);
    const type = r.byte();
    if (type === SFTP.init) return this.#version();
    const id = r.uint32();
    try {
      const request = this.#requests[type];
      if (!request) throw systemError('ENOSYS');
      return request(r, id);
    } catch (cause) {
      const code = cause instanceof SftpError ? 'EBADMSG' : ((cause as NodeJS.ErrnoException).code ?? '');
      return status(id, STATUS[code] ?? SFTP_STATUS.failure, code);
    }
  }

  /** Closes all handles. */
  close(): void {
    for (const handle of this.#handles.keys()) this.#release(handle);
  }

  readonly #requests: Record<number, Request> = {
    [SFTP.open]: (r, id) => this.#open(id, r.string(), r.uint32(), r.attributes()),
    [SFTP.close]: (r, id) => {
      this.#release(handleNumber(r.string()));
      return ok(id);
    },
    [SFTP.read]: (r, id) => this.#read(id, this.#file(r), r.uint64(), r.uint32()),
    [SFTP.write]: (r, id) => {
      this.#demandWritable();
      writeAll(this.#file(r), r.uint64(), r.bytes());
      return ok(id);
    },
    [SFTP.lstat]: (r, id) => attributes(id, this.#lstat(r.string())),
    [SFTP.stat]: (r, id) => attributes(id, this.#lstat(r.string())),
    [SFTP.fstat]: (r, id) => attributes(id, fstatSync(this.#handle(r).fd)),
    [SFTP.setstat]: (r, id) => this.#setAttributes(id, r.string(), r.attributes()),
    [SFTP.fsetstat]: (r, id) => {
      this.#demandWritable();
      const fd = this.#file(r);
      const a = demandSettable(r.attributes());
      if (a.size !== undefined) ftruncateSync(fd, a.size);
      if (a.permissions !== undefined) fchmodSync(fd, a.permissions & PERMISSIONS);
      if (a.times) futimesSync(fd, a.times.accessed, a.times.modified);
      return ok(id);
    },
    [SFTP.opendir]: (r, id) => this.#openDirectory(id, r.string()),
    [SFTP.readdir]: (r, id) => this.#readDirectory(id, this.#handle(r)),
    [SFTP.remove]: (r, id) => this.#change(id, r.string(), (dir, name) => unlinkSync(inDirectory(dir, name))),
    [SFTP.rmdir]: (r, id) => this.#change(id, r.string(), (dir, name) => rmdirSync(inDirectory(dir, name))),
    [SFTP.mkdir]: (r, id) => {
      const path = r.string();
      const mode = (r.attributes().permissions ?? NEW_DIRECTORY) & PERMISSIONS;
      return this.#change(id, path, (dir, name) => mkdirSync(inDirectory(dir, name), mode));
    },
    [SFTP.realpath]: (r, id) => nameOnly(id, `/${namesOf(r.string()).join('/')}`),
    [SFTP.readlink]: (r, id) =>
      nameOnly(
        id,
        inParent(this.#root, r.string(), (dir, name) => readlinkSync(inDirectory(dir, name), 'latin1')),
      ),
    // OpenSSH's order: the target comes first
    [SFTP.symlink]: (r, id) => {
      const target = Buffer.from(r.string(), 'latin1');
      return this.#change(id, r.string(), (dir, name) => symlinkSync(target, inDirectory(dir, name)));
    },
    [SFTP.rename]: (r, id) =>
      this.#move(id, r.string(), r.string(), (from, to) => {
        if (lstatSync(to, { throwIfNoEntry: false })) throw systemError('EEXIST');
        renameSync(from, to);
      }),
    [SFTP.extended]: (r, id) => this.#extended(r, id),
  };

  #version(): Buffer {
    const w = new SftpWriter(SFTP.version).uint32(3);
    for (const [name, version] of Object.entries(EXTENSIONS)) w.string(name).string(version);
    return w.end();
  }

  #extended(r: SftpReader, id: number): Buffer {
    switch (r.string()) {
      case 'posix-rename@openssh.com':
        return this.#move(id, r.string(), r.string(), renameSync);
      case 'hardlink@openssh.com':
        return this.#move(id, r.string(), r.string(), linkSync);
      case 'statvfs@openssh.com':
        this.#lstat(r.string());
        return this.#space(id);
      case 'fstatvfs@openssh.com':
        this.#handle(r);
        return this.#space(id);
      case 'fsync@openssh.com':
        fdatasyncSync(this.#file(r));
        return ok(id);
      default:
        throw systemError('ENOSYS');
    }
  }

  #demandWritable(): void {
    if (this.#readOnly) throw systemError('EROFS');
  }

  /** Changes the last name of a path in its directory. */
  #change(id: number, path: string, change: (directory: number, name: string) => void): Buffer {
    this.#demandWritable();
    inParent(this.#root, path, change);
    return ok(id);
  }

  /** As `change`, with two paths. */
  #move(id: number, from: string, to: string, move: (from: Buffer, to: Buffer) => void): Buffer {
    return this.#change(id, from, (fromDir, fromName) =>
      inParent(this.#root, to, (toDir, toName) => move(inDirectory(fromDir, fromName), inDirectory(toDir, toName))),
    );
  }

  #lstat(path: string): Stats {
    if (namesOf(path).length === 0) return fstatSync(this.#root);
    return inParent(this.#root, path, (dir, name) => lstatSync(inDirectory(dir, name)));
  }

  #open(id: number, path: string, flags: number, a: SftpAttributes): Buffer {
    const has = (flag: number): boolean => (flags & flag) !== 0;
    const writes = has(SFTP_OPEN.write) || has(SFTP_OPEN.append);
    if (writes || has(SFTP_OPEN.create) || has(SFTP_OPEN.truncate)) this.#demandWritable();
    this.#demandRoom();
    const mode =
      (writes ? (has(SFTP_OPEN.read) ? constants.O_RDWR : constants.O_WRONLY) : constants.O_RDONLY) |
      (has(SFTP_OPEN.append) ? constants.O_APPEND : 0) |
      (has(SFTP_OPEN.create) ? constants.O_CREAT : 0) |
      (has(SFTP_OPEN.exclusive) ? constants.O_EXCL : 0) |
      (has(SFTP_OPEN.truncate) && writes ? constants.O_TRUNC : 0);
    const fd = inParent(this.#root, path, (dir, name) => openRegular(inDirectory(dir, name), mode, (a.permissions ?? NEW_FILE) & PERMISSIONS));
    return this.#keep(id, { kind: 'file', fd });
  }

  #read(id: number, fd: number, offset: number, length: number): Buffer {
    const most = Math.min(length, MAX_READ);
    let count = 0;
    const answer = new SftpWriter(SFTP.data, most + 16).uint32(id).fill(most, (target) => {
      while (count < most) {
        const read = readSync(fd, target, count, most - count, offset + count);
        if (read === 0) break;
        count += read;
      }
      return count;
    });
    return count === 0 && most > 0 ? status(id, SFTP_STATUS.endOfFile, '') : answer.end();
  }

  #setAttributes(id: number, path: string, attributes: SftpAttributes): Buffer {
    const a = demandSettable(attributes);
    return this.#change(id, path, (dir, name) => {
      const target = inDirectory(dir, name);
      if (a.size !== undefined) {
        const fd = openRegular(target, constants.O_WRONLY, 0);
        try {
          ftruncateSync(fd, a.size);
        } finally {
          closeSync(fd);
        }
      }
      if (a.permissions === undefined && !a.times) return;
      const fd = openSync(target, O_PATH | constants.O_NOFOLLOW);
      try {
        if (fstatSync(fd).isSymbolicLink()) throw systemError('EPERM');
        if (a.permissions !== undefined) chmodSync(ofDescriptor(fd), a.permissions & PERMISSIONS);
        if (a.times) utimesSync(ofDescriptor(fd), a.times.accessed, a.times.modified);
      } finally {
        closeSync(fd);
      }
    });
  }

  #openDirectory(id: number, path: string): Buffer {
    this.#demandRoom();
    const fd = openDirectory(this.#root, namesOf(path));
    try {
      return this.#keep(id, { kind: 'directory', fd, dir: opendirSync(ofDescriptor(fd), { encoding: 'latin1' as BufferEncoding, bufferSize: ENTRIES }) });
    } catch (cause) {
      closeSync(fd);
      throw cause;
    }
  }

  /** The next entries, without `.` and `..`. An entry that has been removed meanwhile is left out. */
  #readDirectory(id: number, handle: Handle): Buffer {
    if (handle.kind !== 'directory') throw systemError('EBADF');
    const entries: { name: string; stat: Stats }[] = [];
    while (entries.length < ENTRIES) {
      const entry = handle.dir.readSync();
      if (!entry) break;
      const stat = lstatSync(inDirectory(handle.fd, entry.name), { throwIfNoEntry: false });
      if (stat) entries.push({ name: entry.name, stat });
    }
    if (entries.length === 0) return status(id, SFTP_STATUS.endOfFile, '');
    const w = new SftpWriter(SFTP.name, entries.length * 96).uint32(id).uint32(entries.length);
    for (const { name, stat } of entries) w.string(name).string('').attributes(attributesOf(stat));
    return w.end();
  }

  #space(id: number): Buffer {
    const s = statfsSync(ofDescriptor(this.#root));
    const readOnly = this.#readOnly ? 1 : 0;
    const w = new SftpWriter(SFTP.extendedReply).uint32(id);
    for (const value of [s.bsize, s.bsize, s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.ffree, 0, readOnly, 255]) w.uint64(value);
    return w.end();
  }

  #demandRoom(): void {
    if (this.#handles.size >= MAX_HANDLES) throw systemError('EMFILE');
  }

  #keep(id: number, handle: Handle): Buffer {
    const number = this.#nextHandle++;
    this.#handles.set(number, handle);
    return new SftpWriter(SFTP.handle).uint32(id).string(String(number)).end();
  }

  #handle(r: SftpReader): Handle {
    const handle = this.#handles.get(handleNumber(r.string()));
    if (!handle) throw systemError('EBADF');
    return handle;
  }

  #file(r: SftpReader): number {
    const handle = this.#handle(r);
    if (handle.kind !== 'file') throw systemError('EBADF');
    return handle.fd;
  }

  #release(number: number): void {
    const handle = this.#handles.get(number);
    if (!handle) throw systemError('EBADF');
    this.#handles.delete(number);
    if (handle.kind === 'directory') handle.dir.closeSync();
    closeSync(handle.fd);
  }
}

const handleNumber = (text: string): number => (/^\d{1,15}$/.test(text) ? Number(text) : -1);

/** Opens a regular file. Throws EACCES for anything else: a device or a fifo may do something when it is opened. */
function openRegular(path: Buffer, mode: number, permissions: number): number {
  const before = lstatSync(path, { throwIfNoEntry: false });
  if (before && !before.isFile()) throw systemError(before.isDirectory() ? 'EISDIR' : 'EACCES');
  const fd = openSync(path, mode | CAREFUL, permissions);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw systemError('EACCES');
}

function writeAll(fd: number, offset: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
}

/** Throws EPERM for an owner: the process may give no file away. */
function demandSettable(a: SftpAttributes): SftpAttributes {
  if (a.owner) throw systemError('EPERM');
  return a;
}

const seconds = (ms: number): number => Math.min(0xffffffff, Math.max(0, Math.floor(ms / 1000)));

function attributesOf(s: Stats): Required<Pick<SftpAttributes, 'size' | 'permissions' | 'times'>> {
  return { size: s.size, permissions: s.mode, times: { accessed: seconds(s.atimeMs), modified: seconds(s.mtimeMs) } };
}

const attributes = (id: number, s: Stats): Buffer => new SftpWriter(SFTP.attributes).uint32(id).attributes(attributesOf(s)).end();

const nameOnly = (id: number, name: string): Buffer => new SftpWriter(SFTP.name).uint32(id).uint32(1).string(name).string('').uint32(0).end();

const status = (id: number, code: number, text: string): Buffer => new SftpWriter(SFTP.status).uint32(id).uint32(code).string(text).string('').end();

const ok = (id: number): Buffer => status(id, SFTP_STATUS.ok, '');
