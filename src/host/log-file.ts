/**
 * A log that is written into a file of bounded size, and that never ends its process.
 *
 * Theory of operation: lines of one turn are written at once. At 8 MiB the file becomes `FILE.1`, in place of the one
 * before, and a new one is begun. What cannot be written (a full disk, a folder that is gone) is lost, and its count is
 * the first line once writing works again. Limits: 1 MiB of lines in one turn, what is above is lost. Links are not
 * followed, as the folder may belong to a user who is not trusted.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

const FILE_BYTES = 8 << 20;
const WAITING_CHARS = 1 << 20;
const OPEN = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** A destination for pino. */
export class LogFile {
  readonly #path: string;
  readonly #limit: number;
  #fd = -1;
  #size = 0;
  #waiting: string[] = [];
  #chars = 0;
  #lost = 0;
  /** The file ends in the middle of a line. */
  #torn = false;

  /** `limit`: bytes of one file. */
  constructor(path: string, limit = FILE_BYTES) {
    this.#path = path;
    this.#limit = limit;
    process.on('exit', () => this.flushSync());
  }

  /** One line with its end. */
  write(line: string): void {
    if (this.#chars + line.length > WAITING_CHARS) {
      this.#lost++;
      return;
    }
    if (this.#waiting.length === 0) setImmediate(() => this.flushSync());
    this.#waiting.push(line);
    this.#chars += line.length;
  }

  /** Writes what waits. */
  flushSync(): void {
    const lines = this.#waiting;
    if (lines.length === 0) return;
    this.#waiting = [];
    this.#chars = 0;
    const gap = this.#lost > 0 ? `${JSON.stringify({ level: 40, time: Date.now(), lost: this.#lost, msg: 'lines of this log could not be written' })}\n` : '';
    const bytes = Buffer.from(`${this.#torn ? '\n' : ''}${gap}${lines.join('')}`);
    let written = 0;
    try {
      if (this.#fd < 0) this.#open();
      if (this.#size > 0 && this.#size + bytes.length > this.#limit) this.#turnOver();
      while (written < bytes.length) written += writeSync(this.#fd, bytes, written);
      this.#torn = false;
      this.#lost = 0;
    } catch {
      // nowhere to tell it but here, once writing works again
      this.#lost += lines.length;
      if (written > 0) this.#torn = true;
    }
    this.#size += written;
  }

  #open(): void {
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    try {
      this.#fd = openSync(this.#path, OPEN, 0o600);
    } catch {
      this.#turnOver(); // one that another user has left, or a link
      return;
    }
    this.#size = fstatSync(this.#fd).size;
  }

  #turnOver(): void {
    renameSync(this.#path, `${this.#path}.1`);
    const fd = openSync(this.#path, OPEN, 0o600);
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = fd;
    this.#size = 0;
  }
}
