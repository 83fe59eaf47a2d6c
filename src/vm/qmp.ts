/**
 * QEMU Machine Protocol (QMP): JSON lines over a unix socket.
 *
 * Theory of operation: the parser assembles messages from chunks that are split anywhere. The client numbers its
 * commands, matches the answers by number, and passes events to listeners.
 *
 * Limits: QEMU may have been taken over by its guest. A line has at most 256 KiB; a longer one, or one that is not a
 * JSON object, closes the connection. An answer may take 30 s, the greeting 10 s. Of what QEMU sends, 256 KiB or 1,300
 * messages a second are read; the rest waits.
 */
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { descriptorOf } from '../host/descriptor.ts';
import { sendDescriptor } from '../host/ffi/unix-socket.ts';
import { monotonicMs } from '../lib/clock.ts';
import { AnkaError } from '../lib/errors.ts';

const MAX_LINE = 256 << 10;
const ANSWER_LIMIT_MS = 30_000;
const GREETING_LIMIT_MS = 10_000;
const WRITE_POLL_MS = 5;
/** What is read each second, and what a message counts in addition to its characters. */
const COST_PER_SECOND = 256 << 10;
const MESSAGE_COST = 200;
/** Characters of a text of QEMU's in a message of ours. */
const MAX_TEXT = 300;

export interface QmpMessage {
  QMP?: unknown;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
  data?: Record<string, unknown>;
  id?: number;
}

function parseMessage(line: string): QmpMessage {
  const value: unknown = JSON.parse(line);
  if (typeof value !== 'object' || value === null) throw new AnkaError('internal', 'QEMU sent something else than an object');
  return value as QmpMessage;
}

/** A text of QEMU's for messages and logs: short, without control characters. Anything else is `?`. */
export const printable = (text: unknown): string => (typeof text === 'string' ? text.slice(0, MAX_TEXT).replace(/[^\x20-\x7e]/g, '?') : '?');

export class LineParser {
  #rest = '';

  /** The messages that this chunk completes. Throws for a line that is not JSON or too long. */
  push(chunk: string): QmpMessage[] {
    const lines = (this.#rest + chunk).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > MAX_LINE) throw new AnkaError('internal', 'QEMU sent a line of more than 256 KiB');
    return lines.filter((l) => l.trim() !== '').map(parseMessage);
  }
}

/** Says how long not to read from a connection that sends more than is read of it. */
class ReadPace {
  /** What was read beyond the pace, and when, by `monotonicMs`. */
  #excess = 0;
  #at = monotonicMs();

  /** Milliseconds to wait after these messages; 0 below a second's worth. */
  read(messages: number, characters: number): number {
    const now = monotonicMs();
    this.#excess = Math.max(0, this.#excess - ((now - this.#at) * COST_PER_SECOND) / 1000) + characters + messages * MESSAGE_COST;
    this.#at = now;
    return this.#excess > COST_PER_SECOND ? (this.#excess * 1000) / COST_PER_SECOND : 0;
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
    const pace = new ReadPace();
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      try {
        const messages = parser.push(chunk);
        const wait = pace.read(messages.length, chunk.length);
        if (wait > 0) {
          socket.pause();
          setTimeout(() => socket.resume(), wait).unref();
        }
        for (const m of messages) {
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

  /** Throws `timeout` if there is no greeting in time. */
  static async connect(path: string): Promise<Qmp> {
    const socket = createConnection(path);
    let greeted = () => {};
    const greeting = new Promise<void>((resolve, reject) => {
      greeted = resolve;
      socket.once('error', reject);
      socket.once('close', () => reject(new Error('QEMU closed its QMP socket before the greeting')));
    });
    const qmp = new Qmp(socket, greeted);
    let late = false;
    const limit = setTimeout(() => {
      late = true;
      socket.destroy();
    }, GREETING_LIMIT_MS);
    try {
      await greeting;
      await qmp.command('qmp_capabilities');
    } catch (cause) {
      socket.destroy();
      throw late ? new AnkaError('timeout', `QEMU sent no greeting within ${GREETING_LIMIT_MS / 1000} s`, { cause }) : cause;
    } finally {
      clearTimeout(limit);
    }
    return qmp;
  }

  /** Runs one command. Throws with QEMU's description of the error. */
  command(execute: string, args?: Record<string, unknown>): Promise<unknown> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (this.#socket.destroyed) return reject(new AnkaError('internal', `QEMU has exited (${execute})`));
      this.#await(id, execute, resolve, reject);
      this.#socket.write(`${JSON.stringify({ execute, ...(args ? { arguments: args } : {}), id })}\n`);
    });
  }

  /** Passes an open descriptor to QEMU (`getfd`), under `name` until a netdev uses it. */
  async passDescriptor(name: string, fd: number): Promise<void> {
    // the descriptor is sent below Node's queue, so the queue must be empty
    const deadline = monotonicMs() + ANSWER_LIMIT_MS;
    while (this.#socket.writableLength > 0 && !this.#socket.destroyed) {
      if (monotonicMs() > deadline) throw new AnkaError('timeout', `QEMU read no command for ${ANSWER_LIMIT_MS / 1000} s`);
      await sleep(WRITE_POLL_MS);
    }
    const socketFd = descriptorOf(this.#socket);
    const id = this.#nextId++;
    await new Promise<unknown>((resolve, reject) => {
      if (this.#socket.destroyed || socketFd < 0) return reject(new AnkaError('internal', 'QEMU has exited (getfd)'));
      this.#await(id, 'getfd', resolve, reject);
      try {
        sendDescriptor(socketFd, Buffer.from(`${JSON.stringify({ execute: 'getfd', arguments: { fdname: name }, id })}\n`), fd);
      } catch (cause) {
        this.#pending.get(id)?.reject(cause as Error);
        this.#pending.delete(id);
      }
    });
  }

  /** Waits for the answer to a command, for a limited time. */
  #await(id: number, command: string, resolve: (value: unknown) => void, reject: (error: Error) => void): void {
    const limit = setTimeout(() => {
      this.#pending.delete(id);
      reject(new AnkaError('timeout', `QEMU did not answer ${command} within ${ANSWER_LIMIT_MS / 1000} s`));
    }, ANSWER_LIMIT_MS);
    limit.unref();
    const settle =
      <T>(done: (value: T) => void) =>
      (value: T): void => {
        clearTimeout(limit);
        done(value);
      };
    this.#pending.set(id, { resolve: settle(resolve), reject: settle(reject) });
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
    if (typeof message.event === 'string') {
      const data = typeof message.data === 'object' && message.data !== null ? message.data : {};
      for (const listener of this.#listeners) listener(message.event, data);
      return;
    }
    const command = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (!command) return;
    this.#pending.delete(message.id as number);
    if (message.error) command.reject(new AnkaError('internal', `QEMU: ${printable(message.error.desc)}`));
    else command.resolve(message.return);
  }
}
