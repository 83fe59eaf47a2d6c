/**
 * A root shell in a guest on its serial console, which needs no network. Commands run one after the other. The
 * connection is opened by the first command, and again after QEMU has exited.
 */
import { createConnection, type Socket } from 'node:net';

/** A command takes longer only if the guest is stopped or dead (ms). */
const LIMIT_MS = 240_000;

export class GuestConsole {
  readonly #path: () => string;
  #socket: Socket | null = null;
  #text = '';
  #next = 1;
  #queue: Promise<unknown> = Promise.resolve();
  #check: () => void = () => {};

  /** `path`: where the console's socket is now. */
  constructor(path: () => string) {
    this.#path = path;
  }

  /** Standard output of a shell line; null if the guest did not run it. Keep it short: it is typed. */
  run(line: string, limitMs = LIMIT_MS): Promise<string | null> {
    const result = this.#queue.then(() => this.#run(line, limitMs));
    this.#queue = result;
    return result;
  }

  close(): void {
    this.#socket?.destroy();
  }

  async #run(line: string, limitMs: number): Promise<string | null> {
    const socket = this.#socket ?? (await this.#connect());
    if (!socket) return null;
    const id = this.#next++;
    this.#text = '';
    // the echo of the line does not match, as it contains the quotes
    socket.write(`\x15${line}; echo "@@"${id}"@@"\n`);
    const mark = `@@${id}@@`;
    return new Promise((resolve) => {
      const end = (value: string | null): void => {
        clearTimeout(timer);
        this.#check = () => {};
        if (value === null) socket.destroy();
        resolve(value);
      };
      const timer = setTimeout(() => end(null), limitMs);
      this.#check = () => {
        const at = this.#text.indexOf(mark);
        if (at >= 0) end(this.#text.slice(this.#text.indexOf('\n') + 1, at).replaceAll('\r', ''));
        else if (socket.destroyed) end(null);
      };
      this.#check();
    });
  }

  #connect(): Promise<Socket | null> {
    return new Promise((resolve) => {
      const socket = createConnection(this.#path());
      socket.setEncoding('latin1');
      socket.once('connect', () => {
        this.#socket = socket;
        resolve(socket);
      });
      socket.once('error', () => resolve(null));
      socket.on('data', (text: string) => {
        this.#text += text;
        this.#check();
      });
      socket.on('close', () => {
        if (this.#socket === socket) this.#socket = null;
        this.#check();
      });
    });
  }
}
