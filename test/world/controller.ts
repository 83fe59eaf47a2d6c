/** The compiled `anka controller run` in a namespace, and requests to it, as its clients send them. */
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Anka } from './anka.ts';
import { until, type World } from './world.ts';

export interface Answer {
  /** HTTP status. */
  http: number;
  status: string;
  message: string;
  // biome-ignore lint/suspicious/noExplicitAny: what a client parses
  body: any;
}

/** Headers that the HTTP library of a client adds. */
const HEADERS = {
  /** Jenkins and TeamCity: Apache's HttpClient. The type is set by both. */
  java: (body: boolean) => [
    'User-Agent: Apache-HttpClient/4.5.14 (Java/17.0.9)',
    'Connection: Keep-Alive',
    'Accept-Encoding: gzip,deflate',
    ...(body ? ['content-type: application/json'] : []),
  ],
  /** The GitLab executor and the exporter: Go, without a content type but in DELETE. */
  go: () => ['User-Agent: Go-http-client/1.1', 'Accept-Encoding: gzip'],
} as const;

export type Library = keyof typeof HEADERS;

export class Controller {
  readonly url: string;
  readonly child: ChildProcess;
  readonly #world: World;
  readonly #lock: string;

  private constructor(world: World, anka: Anka, child: ChildProcess, url: string) {
    this.#world = world;
    this.#lock = join(anka.home, 'controller.lock');
    this.child = child;
    this.url = url;
  }

  /** Starts it on a free port of the loopback. `words`: more options. */
  static async start(world: World, anka: Anka, words = '--listen 127.0.0.1:0'): Promise<Controller> {
    const child = world.host.spawn(['sh', '-c', `exec ${anka.commandLine(`controller run ${words}`)}`], {}, 'pipe');
    let said = '';
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (d: Buffer) => {
        said += d.toString();
      });
    const url = await until('the controller listens', () => {
      if (child.exitCode !== null) throw new Error(`the controller exited: ${said}`);
      return /listens on (\S+), /.exec(said)?.[1];
    });
    return new Controller(world, anka, child, url);
  }

  /** Ends it by a signal, and waits until it has exited. */
  async end(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exit = new Promise((resolve) => this.child.once('close', resolve));
    process.kill(Number(readFileSync(this.#lock, 'utf8')), signal);
    await exit;
  }

  /** One request by curl, as a client of this library sends it. A body that is an object is sent as JSON. */
  async ask(library: Library, request: string, body?: object | string, headers: readonly string[] = []): Promise<Answer> {
    const [method, path] = request.split(' ') as [string, string];
    const data = typeof body === 'object' ? JSON.stringify(body) : body;
    const all = ['Accept:', ...(data === undefined || library === 'java' ? [] : ['Content-Type:']), ...HEADERS[library](data !== undefined), ...headers];
    const words = ['curl', '-sSk', '-g', '--compressed', '-X', method, ...all.flatMap((h) => ['-H', h]), '-w', '\n%{http_code}', `${this.url}${path}`];
    const child = this.#world.host.spawn(data === undefined ? words : [...words, '--data-binary', '@-'], {}, 'pipe');
    let out = '';
    child.stdout?.on('data', (d: Buffer) => {
      out += d.toString();
    });
    child.stdin?.end(data ?? '');
    await new Promise((resolve) => child.once('close', resolve));
    const end = out.lastIndexOf('\n');
    const http = Number(out.slice(end + 1));
    return { http, ...(http === 0 ? { status: '', message: '', body: undefined } : (JSON.parse(out.slice(0, end)) as Omit<Answer, 'http'>)) };
  }

  /** As `ask`; fails unless the answer is a success. Returns the body. */
  // biome-ignore lint/suspicious/noExplicitAny: what a client parses
  async ok(library: Library, request: string, body?: object, headers?: readonly string[]): Promise<any> {
    const answer = await this.ask(library, request, body, headers);
    if (answer.http !== 200 || answer.status !== 'OK') throw new Error(`${request}: ${JSON.stringify(answer)}`);
    return answer.body;
  }

  /** Waits until an instance is in a state, and returns it. */
  async reaches(id: string, state: string): Promise<Answer['body']> {
    return until(`instance ${id} is ${state}`, async () => {
      const i = await this.ok('go', `GET /api/v1/vm?id=${id}`);
      if (i.instance_state === 'Error' && state !== 'Error') throw new Error(JSON.stringify(i));
      if (i.instance_state === 'Started' && i.vminfo?.port_forwarding === undefined) throw new Error(`without its VM: ${JSON.stringify(i)}`);
      return i.instance_state === state ? i : null;
    });
  }
}
