/**
 * A small record that has to survive a restart of the daemon, such as what was changed on the host and must be undone.
 * It is one JSON object in one file.
 *
 * Theory of operation: the file is read on first use. `save` writes a new file and renames it over the old one, so a
 * crash leaves either the old record or the new one. An empty record has no file.
 *
 * Limits: a missing or damaged file counts as empty. One process may write it.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';

export class JsonRecord<Value> {
  readonly #path: string;
  #entries: Map<string, Value> | null = null;
  #unsaved = false;

  constructor(path: string) {
    this.#path = path;
  }

  /** The record. Call `save` after a change. */
  get entries(): Map<string, Value> {
    this.#entries ??= new Map(Object.entries(readObject(this.#path))) as Map<string, Value>;
    return this.#entries;
  }

  /** The last save failed. */
  get unsaved(): boolean {
    return this.#unsaved;
  }

  /** Throws the file system's error. */
  save(): void {
    this.#unsaved = true;
    const part = `${this.#path}.part`;
    try {
      if (this.entries.size === 0) rmSync(this.#path, { force: true });
      else {
        writeFileSync(part, JSON.stringify(Object.fromEntries(this.entries)), { mode: 0o600 });
        renameSync(part, this.#path);
      }
    } catch (cause) {
      rmSync(part, { force: true }); // the disk may be full
      throw cause;
    }
    this.#unsaved = false;
  }

  /** For a record that only saves work after a restart: a failure leaves it `unsaved`, to be tried again later. */
  trySave(): void {
    try {
      this.save();
    } catch {
      // `unsaved` stays true
    }
  }
}

function readObject(path: string): object {
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {};
  } catch {
    return {}; // missing or damaged
  }
}
