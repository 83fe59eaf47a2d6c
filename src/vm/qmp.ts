/**
 * QEMU's machine protocol: JSON lines over a unix socket.
 *
 * Theory of operation: the parser takes chunks cut anywhere and gives whole messages; the client numbers its commands,
 * matches the answers, and hands events on. Limits: a line may have at most 1 MiB; beyond that the connection is given
 * up, as nothing that QEMU says is that long.
 */
import { createConnection, type Socket } from 'node:net';
import { sendDescriptor } from '../host/ffi/unix-socket.ts';
import { AnkaError } from '../lib/errors.ts';

const MAX_LINE = 1 << 20;

export interface QmpMessage {
  QMP?: unknown;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
  data?: Record<string, unknown>;
  id?: number;
}

/** Lines out of chunks. */
export class LineParser {
  #rest = '';

  /** The messages that this chunk completes. Throws when a line is no JSON, or too long. */
  push(chunk: string): QmpMessage[] {
    const lines = (this.#rest + chunk).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > MAX_LINE) throw new AnkaError('internal', 'QEMU sent a line that does not end');
    return lines.filter((l) => l.trim() !== '').map((l) => JSON.parse(l) as QmpMessage);
  }
}

/** One QMP connection. `connect` resolves after the greeting and the capabilities. */
export class Qmp {
  readonly closed: Promise<void>;
  #socket: Socket;
  #next = 1;
  #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #listeners = new Set<(name: string, data: Record<string, unknown>) => void>();

  private constructor(socket: Socket, greeted: () => void) {
    this.#socket = socket;
    const parser = new LineParser();
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      try {
        for (const m of parser.push(chunk)) {
          if (m.QMP) greeted();
          else this.#take(m);
        }
      } catch (cause) {
        socket.destroy(cause as Error);
      }
    });
    socket.on('error', () => {}); // 'close' follows, and tells everybody who waits
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        for (const w of this.#waiting.values()) w.reject(new AnkaError('internal', 'QEMU closed its control socket'));
        this.#waiting.clear();
        resolve();
      });
    });
  }

  static async connect(path: string): Promise<Qmp> {
    const socket = createConnection(path);
    let greeted = () => {};
    const greeting = new Promise<void>((resolve, reject) => {
      greeted = resolve;
      socket.once('error', reject);
      socket.once('close', () => reject(new Error('closed before the greeting')));
    });
    const qmp = new Qmp(socket, greeted);
    await greeting;
    await qmp.command('qmp_capabilities');
    return qmp;
  }

  /** Runs one command. Throws with QEMU's own description. */
  command(execute: string, args?: Record<string, unknown>): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) return reject(new AnkaError('internal', `QEMU is gone (${execute})`));
      this.#waiting.set(id, { resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute, ...(args ? { arguments: args } : {}), id })}\n`);
    });
  }

  /** Gives QEMU a copy of an open descriptor, known to it by `name` until a netdev takes it. */
  async handOver(name: string, fd: number): Promise<void> {
    // what Node still has to write goes first; commands are small, so this is the rule
    while (this.#socket.writableLength > 0 && !this.#socket.destroyed) await new Promise((resolve) => this.#socket.once('drain', resolve));
    const own = (this.#socket as unknown as { _handle?: { fd: number } | null })._handle?.fd ?? -1;
    const id = this.#next++;
    await new Promise<unknown>((resolve, reject) => {
      if (this.#socket.destroyed || own < 0) return reject(new AnkaError('internal', 'QEMU is gone (getfd)'));
      this.#waiting.set(id, { resolve, reject });
      try {
        sendDescriptor(own, Buffer.from(`${JSON.stringify({ execute: 'getfd', arguments: { fdname: name }, id })}\n`), fd);
      } catch (cause) {
        this.#waiting.delete(id);
        reject(cause as Error);
      }
    });
  }

  onEvent(listener: (name: string, data: Record<string, unknown>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** QEMU has closed the connection. */
  get gone(): boolean {
    return this.#socket.destroyed;
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(m: QmpMessage): void {
    if (m.event) {
      for (const l of this.#listeners) l(m.event, m.data ?? {});
      return;
    }
    const waiter = m.id === undefined ? undefined : this.#waiting.get(m.id);
    if (!waiter) return;
    this.#waiting.delete(m.id as number);
    if (m.error) waiter.reject(new AnkaError('internal', `QEMU: ${m.error.desc}`));
    else waiter.resolve(m.return);
  }
}
