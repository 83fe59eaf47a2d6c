/**
 * What a command prints, for people or for machines (B80, B81).
 *
 * For machines: one line of JSON without a trailing newline on standard output, and nothing on standard error after it.
 * For people: text on standard output, progress and errors on standard error; on a terminal progress is one line that
 * is drawn over.
 */
import { AnkaError } from '../lib/errors.ts';

export class Output {
  readonly machine: boolean;
  #drawn = 0;
  #last = '';

  constructor(machine: boolean) {
    this.machine = machine;
  }

  /** The command's answer: `text` for people, `body` for machines. */
  done(body: unknown, text = ''): void {
    this.clear();
    if (this.machine) process.stdout.write(JSON.stringify({ status: 'OK', body: body ?? {}, message: '', code: 0 }));
    else if (text !== '') process.stdout.write(`${text}\n`);
  }

  /** A step of long work. Into a pipe each step is one line; on a terminal one line with a bar. */
  progress(step: string, fraction?: number): void {
    if (this.machine) return;
    if (!process.stderr.isTTY) {
      if (step !== this.#last) process.stderr.write(`${step}\n`);
      this.#last = step;
      return;
    }
    const bar = fraction === undefined ? '' : ` [${'#'.repeat(Math.round(fraction * 24)).padEnd(24, '.')}] ${String(Math.round(fraction * 100)).padStart(3)} %`;
    const text = `${step}${bar}`.slice(0, (process.stderr.columns || 80) - 1);
    process.stderr.write(`\r${text}${' '.repeat(Math.max(0, this.#drawn - text.length))}`);
    this.#drawn = text.length;
  }

  /** A remark for people. */
  note(text: string): void {
    this.clear();
    if (!this.machine) process.stderr.write(`${text}\n`);
  }

  clear(): void {
    if (this.#drawn > 0) process.stderr.write(`\r${' '.repeat(this.#drawn)}\r`);
    this.#drawn = 0;
  }

  /** Prints an error; gives the exit status. */
  failed(cause: unknown): number {
    this.clear();
    const error = cause instanceof AnkaError ? cause : new AnkaError('internal', cause instanceof Error ? cause.message : String(cause));
    if (this.machine) process.stdout.write(JSON.stringify({ status: 'ERROR', body: {}, message: error.message, code: error.code, exception_type: error.type }));
    else process.stderr.write(`anka: ${error.message}\n`);
    if (process.env['ANKA_DEBUG'] && cause instanceof Error) process.stderr.write(`${cause.stack}\n`);
    return error.code;
  }
}
