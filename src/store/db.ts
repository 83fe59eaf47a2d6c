/** The database, the only importer of SQLite: `node:sqlite`, or before Node 22.5 a package with the same interface. */
import { chmodSync, closeSync, existsSync, mkdirSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { isDiskFull } from '../host/disk-space.ts';
import { AnkaError } from '../lib/errors.ts';
import { MIGRATIONS } from './migrations.ts';

export type SqlValue = null | number | bigint | string | Uint8Array;
export type SqlRow = Record<string, SqlValue>;

export interface Statement {
  all(...params: SqlValue[]): SqlRow[];
  get(...params: SqlValue[]): SqlRow | undefined;
  run(...params: SqlValue[]): { changes: number | bigint };
}

export interface Db {
  prepare(sql: string): Statement;
  exec(sql: string): void;
  close(): void;
}

type DbConstructor = new (path: string) => Db;

function sqlite(): DbConstructor {
  const require = createRequire(import.meta.url);
  try {
    return (require('node:sqlite') as { DatabaseSync: DbConstructor }).DatabaseSync;
  } catch {
    return (require('@photostructure/sqlite') as { DatabaseSync: DbConstructor }).DatabaseSync;
  }
}

/** What SQLite throws: a primary code in the low byte. */
interface SqliteError extends Error {
  errcode?: number;
  code?: string;
}
const SQLITE_FULL = 13;

/** Throws the error of a statement; `diskFull` if that is why it failed. */
function failed(cause: unknown, path: string): never {
  const { errcode = 0, code = '', message } = cause as SqliteError;
  const full = (errcode & 0xff) === SQLITE_FULL || code === 'ENOSPC' || /disk is full/.test(message);
  if (full || (!(cause instanceof AnkaError) && isDiskFull(dirname(path))))
    throw new AnkaError('diskFull', `no space left for the database ${path}; free some space, and run the command again`, { cause });
  throw cause;
}

/** The same database, with errors of a full disk named. */
function namingFullDisk(db: Db, path: string): Db {
  const attempt = <T>(work: () => T): T => {
    try {
      return work();
    } catch (cause) {
      return failed(cause, path);
    }
  };
  return {
    prepare(sql) {
      const s = attempt(() => db.prepare(sql));
      return {
        all: (...params) => attempt(() => s.all(...params)),
        get: (...params) => attempt(() => s.get(...params)),
        run: (...params) => attempt(() => s.run(...params)),
      };
    },
    exec: (sql) => attempt(() => db.exec(sql)),
    close: () => db.close(),
  };
}

/** Lets only its owner read and write the database; SQLite gives new files beside it the same mode. */
function keepPrivate(path: string): void {
  closeSync(openSync(path, 'a', 0o600));
  for (const file of [path, `${path}-wal`, `${path}-shm`]) if (existsSync(file)) chmodSync(file, 0o600);
}

/**
 * Opens the database and migrates it. Throws `diskFull`, or `internal` for a damaged or newer file, which stays
 * untouched. Statements throw `diskFull`, too.
 */
export function openDb(path: string): Db {
  mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
  const existed = existsSync(path);
  let db: Db | null = null;
  try {
    keepPrivate(path);
    db = namingFullDisk(new (sqlite())(path), path);
    db.exec('PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON');
    migrate(db, path);
    return db;
  } catch (cause) {
    db?.close();
    if (cause instanceof AnkaError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === 'ENOSPC') failed(cause, path);
    throw new AnkaError(
      'internal',
      existed
        ? `the database ${path} is damaged (${(cause as Error).message}); restore a backup, or move the file away to start with an empty database`
        : `cannot create the database ${path}: ${(cause as Error).message}`,
      { cause },
    );
  }
}

function migrate(db: Db, path: string): void {
  const version = Number(db.prepare('PRAGMA user_version').get()?.['user_version'] ?? 0);
  if (version > MIGRATIONS.length)
    throw new AnkaError(
      'internal',
      `the database ${path} was written by a newer anka (schema ${version}, this anka supports ${MIGRATIONS.length}); upgrade anka`,
    );
  for (let v = version; v < MIGRATIONS.length; v++) transaction(db, () => db.exec(`${MIGRATIONS[v]}; PRAGMA user_version = ${v + 1}`));
}

/** SQLite itself may have rolled back, e.g. because the disk is full. */
function rollBack(db: Db): void {
  try {
    db.exec('ROLLBACK');
  } catch {
    // no transaction is active
  }
}

/** Runs `work` in one transaction: all of it is stored, or nothing. */
export function transaction<T>(db: Db, work: () => T): T {
  db.exec('BEGIN IMMEDIATE');
  try {
    const result = work();
    db.exec('COMMIT');
    return result;
  } catch (cause) {
    rollBack(db);
    throw cause;
  }
}
