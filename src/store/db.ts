/** The database, the only importer of SQLite: `node:sqlite`, or before Node 22.5 a package with the same interface. */
import { existsSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
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

/** Opens the database and migrates it. Throws `internal` for a damaged or newer file, which stays untouched. */
export function openDb(path: string): Db {
  mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
  const existed = existsSync(path);
  let db: Db | null = null;
  try {
    db = new (sqlite())(path);
    db.exec('PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON');
    migrate(db, path);
    return db;
  } catch (cause) {
    db?.close();
    if (cause instanceof AnkaError) throw cause;
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

/** Runs `work` in one transaction: all of it is stored, or nothing. */
export function transaction<T>(db: Db, work: () => T): T {
  db.exec('BEGIN IMMEDIATE');
  try {
    const result = work();
    db.exec('COMMIT');
    return result;
  } catch (cause) {
    db.exec('ROLLBACK');
    throw cause;
  }
}
