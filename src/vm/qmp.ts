/**
 * QEMU Machine Protocol (QMP): JSON lines over a unix socket.
 *
 * Theory of operation: the parser assembles messages from chunks that are split anywhere. The client numbers its
 * commands, matches the answers by number, and passes events to listeners. Limits: a line has at most 1 MiB; a longer
 * one closes the connection.
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

export class LineParser {
  #rest = '';

  /** The messages that this chunk completes. Throws for a line that is not JSON or too long. */
  push(chunk: string): QmpMessage[] {
    const lines = (this.#rest + chunk).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > MAX_LINE) throw new AnkaError('internal', 'QEMU sent a line of more than 1 MiB');
    return lines.filter((l) => l.trim() !== '').map((l) => JSON.parse(l) as QmpMessage);
  }
}

/** One QMP connection. `connect` resolves after the greeting and the negotiation of capabilities. */
export class Qmp {
  readonly closed: Promise<void>;
  #socket: Socket;
  #nextId = 1;
  #pending = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #listeners = new Set<(name: string, data: Record<string, unknown>) => void>();

  private constructor(socket: Socket, greeted: () => void) {
    this.#socket = socket;
    const parser = new LineParser();
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      try {
        for (const m of parser.push(chunk)) {
          if (m.QMP) greeted();
          else this.#receive(m);
        }
      } catch (cause) {
        socket.destroy(cause as Error);
      }
    });
    socket.on('error', () => {}); // 'close' follows, and rejects all pending commands
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        for (const command of this.#pending.values()) command.reject(new AnkaError('internal', 'QEMU closed its QMP socket'));
        this.#pending.clear();
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
      socket.once('close', () => reject(new Error('QEMU closed its QMP socket before the greeting')));
    });
    const qmp = new Qmp(socket, greeted);
    await greeting;
    await qmp.command('qmp_capabilities');
    return qmp;
  }

  /** Runs one command. Throws with QEMU's description of the error. */
  command(execute: string, args?: Record<string, unknown>): Promise<unknown> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) return reject(new AnkaError('internal', `QEMU has exited (${execute})`));
      this.#pending.set(id, { resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute, ...(args ? { arguments: args } : {}), id })}\n`);
    });
  }

  /** Passes an open descriptor to QEMU (`getfd`), under `name` until a netdev uses it. */
  async passDescriptor(name: string, fd: number): Promise<void> {
    // the descriptor is sent below Node's queue, so the queue must be empty
    while (this.#socket.writableLength > 0 && !this.#socket.destroyed) await new Promise((resolve) => this.#socket.once('drain', resolve));
    const socketFd = (this.#socket as unknown as { _handle?: { fd: number } | null })._handle?.fd ?? -1;
    const id = this.#nextId++;
    await new Promise<unknown>((resolve, reject) => {
      if (this.#socket.destroyed || socketFd < 0) return reject(new AnkaError('internal', 'QEMU has exited (getfd)'));
      this.#pending.set(id, { resolve, reject });
      try {
        sendDescriptor(socketFd, Buffer.from(`${JSON.stringify({ execute: 'getfd', arguments: { fdname: name }, id })}\n`), fd);
      } catch (cause) {
        this.#pending.delete(id);
        reject(cause as Error);
      }
    });
  }

  onEvent(listener: (name: string, data: Record<string, unknown>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get isClosed(): boolean {
    return this.#socket.destroyed;
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(message: QmpMessage): void {
    if (message.event) {
      for (const listener of this.#listeners) listener(message.event, message.data ?? {});
      return;
    }
    const command = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (!command) return;
    this.#pending.delete(message.id as number);
    if (message.error) command.reject(new AnkaError('internal', `QEMU: ${message.error.desc}`));
    else command.resolve(message.return);
  }
}
