/**
 * A log in a file of bounded size, which never makes its process exit.
 *
 * Theory of operation: the lines of one turn of the event loop are written in one call. At 8 MiB the file is renamed to
 * `FILE.1`, replacing the previous one, and a new one is created. Lines that cannot be written (a full disk, a removed
 * directory) are lost; their count is the first line when writing works again.
 *
 * Limits: 1 MiB of lines in one turn; lines beyond are lost. Symbolic links are not followed, as the directory may
 * belong to an untrusted user.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

const FILE_BYTES = 8 << 20;
const PENDING_CHARS = 1 << 20;
const OPEN = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** A destination for pino. A line is lost if it cannot be written at once: the reader may be gone, or stopped. */
export const standardOutput = {
  write(line: string): void {
    try {
      writeSync(1, line);
    } catch {
      // as with a full disk
    }
  },
};

/** A destination for pino. */
export class LogFile {
  readonly #path: string;
  readonly #limit: number;
  #fd = -1;
  #size = 0;
  #pending: string[] = [];
  #chars = 0;
  #lost = 0;
  /** The file ends with an incomplete line. */
  #partialLine = false;

  /** `limit`: bytes of one file. */
  constructor(path: string, limit = FILE_BYTES) {
    this.#path = path;
    this.#limit = limit;
    process.on('exit', () => this.flushSync());
  }

  /** `line` ends with a newline. */
  write(line: string): void {
    if (this.#chars + line.length > PENDING_CHARS) {
      this.#lost++;
      return;
    }
    if (this.#pending.length === 0) setImmediate(() => this.flushSync());
    this.#pending.push(line);
    this.#chars += line.length;
  }

  /** Writes the pending lines. */
  flushSync(): void {
    const lines = this.#pending;
    if (lines.length === 0) return;
    this.#pending = [];
    this.#chars = 0;
    const gap = this.#lost > 0 ? `${JSON.stringify({ level: 40, time: Date.now(), lost: this.#lost, msg: 'lines of this log could not be written' })}\n` : '';
    const bytes = Buffer.from(`${this.#partialLine ? '\n' : ''}${gap}${lines.join('')}`);
    let written = 0;
    try {
      if (this.#fd < 0) this.#open();
      if (this.#size > 0 && this.#size + bytes.length > this.#limit) this.#rotate();
      while (written < bytes.length) written += writeSync(this.#fd, bytes, written);
      this.#partialLine = false;
      this.#lost = 0;
    } catch {
      // reported in the log itself when writing works again
      this.#lost += lines.length;
      if (written > 0) this.#partialLine = true;
    }
    this.#size += written;
  }

  #open(): void {
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    try {
      this.#fd = openSync(this.#path, OPEN, 0o600);
    } catch {
      this.#rotate(); // another user's file, or a symbolic link
      return;
    }
    this.#size = fstatSync(this.#fd).size;
  }

  #rotate(): void {
    renameSync(this.#path, `${this.#path}.1`);
    const fd = openSync(this.#path, OPEN, 0o600);
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = fd;
    this.#size = 0;
  }
}
