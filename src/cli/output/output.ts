/**
 * What a command prints, for people or for machines (B80, B81).
 *
 * For machines: one line of JSON without a trailing newline on standard output, and nothing on standard error after it.
 * For people: results on standard output, progress and errors on standard error. On a terminal, progress is one line
 * that is redrawn.
 */
import type { Progress } from '../../api/types.ts';
import { ankaError } from '../../lib/errors.ts';

/** Width of the progress bar, characters. */
const BAR = 24;

export class Output {
  readonly machine: boolean;
  readonly #remarks: string[] = [];
  /** Characters of the progress line on the terminal. */
  #drawn = 0;
  #lastStep = '';

  constructor(machine: boolean) {
    this.machine = machine;
  }

  /** The command's result: `text` for people, `body` for machines. */
  done(body: unknown, text = ''): void {
    this.clear();
    if (this.machine) process.stdout.write(JSON.stringify({ status: 'OK', body: body ?? {}, message: this.#remarks.join('; '), code: 0 }));
    else if (text !== '') process.stdout.write(`${text}\n`);
  }

  /** A step of a long operation: one line per step in a pipe, one redrawn line with a bar on a terminal. */
  progress(step: string, fraction?: number): void {
    if (this.machine) return;
    if (!process.stderr.isTTY) {
      if (step !== this.#lastStep) process.stderr.write(`${step}\n`);
      this.#lastStep = step;
      return;
    }
    const bar =
      fraction === undefined ? '' : ` [${'#'.repeat(Math.round(fraction * BAR)).padEnd(BAR, '.')}] ${String(Math.round(fraction * 100)).padStart(3)} %`;
    const text = `${step}${bar}`.slice(0, (process.stderr.columns || 80) - 1);
    process.stderr.write(`\r${text}${' '.repeat(Math.max(0, this.#drawn - text.length))}`);
    this.#drawn = text.length;
  }

  /** Call options that print the progress of a request, each step after `prefix`. */
  reporting(prefix = ''): { onProgress: (p: Progress) => void } {
    return { onProgress: (p) => this.progress(`${prefix}${p.step}`, p.fraction) };
  }

  /** A note for people. */
  note(text: string): void {
    this.clear();
    if (!this.machine) process.stderr.write(`${text}\n`);
  }

  /** A note on the command itself: for machines it is the message of the answer. */
  remark(text: string): void {
    this.#remarks.push(text);
    this.note(`anka: ${text}`);
  }

  /** Whether an option without effect was given. */
  get hasRemarks(): boolean {
    return this.#remarks.length > 0;
  }

  /** Erases the progress line. */
  clear(): void {
    if (this.#drawn > 0) process.stderr.write(`\r${' '.repeat(this.#drawn)}\r`);
    this.#drawn = 0;
  }

  /** Prints an error. Returns the exit status. */
  failed(cause: unknown): number {
    this.clear();
    const error = ankaError(cause);
    if (this.machine) process.stdout.write(JSON.stringify({ status: 'ERROR', body: {}, message: error.message, code: error.code, exception_type: error.type }));
    else process.stderr.write(`anka: ${error.message}\n`);
    if (process.env['ANKA_DEBUG'] && cause instanceof Error) process.stderr.write(`${cause.stack}\n`);
    return error.code;
  }
}
