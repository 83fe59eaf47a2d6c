/**
 * Declares routes: each checks its body by a schema, calls a handler, and answers in the envelope of Anka's controller:
 * `{"status": "OK" | "FAIL", "message", "body"}`. Every route is also registered in the OpenAPI document.
 *
 * Limits: a client that does not find what it asks for gets status FAIL with HTTP status 200, as Anka's controller
 * answers, where the handler throws `NotFound`. All else that fails has a 4xx or 5xx status, too.
 */
import type { IncomingMessage } from 'node:http';
import type { HttpBindings } from '@hono/node-server';
import { OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context, MiddlewareHandler } from 'hono';
import { AnkaError, ankaError, type ErrorKind } from '../../lib/errors.ts';

/** Longest body of a request, bytes. */
export const MAX_BODY = 256 << 10;

export type Request = Context<{ Bindings: HttpBindings }>;

/** What a client asked for does not exist: FAIL with HTTP status 200. */
export class NotFound extends AnkaError {
  constructor(message: string) {
    super('vmNotFound', message);
  }
}

/** The body of a request is too long: the connection is closed after the answer, with the rest unread. */
class TooLarge extends AnkaError {
  constructor() {
    super('badValue', `the body has more than ${MAX_BODY} bytes`);
  }
}

const STATUS: Partial<Record<ErrorKind, number>> = {
  usage: 404,
  badValue: 400,
  vmNotFound: 400,
  noRights: 403,
  badState: 409,
  poolExhausted: 503,
  daemon: 503,
  diskFull: 507,
};

type Envelope = { status: 'OK' | 'FAIL'; message: string; body?: unknown };

/** The envelope of a failure. */
export const failure = (message: string): Envelope => ({ status: 'FAIL', message });

function failed(c: Context, cause: unknown): Response {
  const error = ankaError(cause);
  if (cause instanceof TooLarge) return c.json(failure(error.message), 413, { connection: 'close' });
  return c.json(failure(error.message), (cause instanceof NotFound ? 200 : (STATUS[error.kind] ?? 500)) as 200);
}

export class Router {
  readonly app = new OpenAPIHono<{ Bindings: HttpBindings }>();

  /** `admission` runs before all routes. */
  constructor(admission: MiddlewareHandler) {
    this.app.onError((cause, c) => failed(c, cause));
    this.app.use(admission);
    this.app.notFound((c) =>
      failed(c, new AnkaError('usage', `no such path: ${c.req.method} ${c.req.path.slice(0, 200)}; GET /api/v1/openapi.json lists all paths`)),
    );
  }

  /** A route without a body. `query`: names of optional parameters. */
  read(method: 'get' | 'delete', path: string, summary: string, query: readonly string[], handle: (c: Request) => Promise<unknown>): void {
    this.#document(method, path, { summary, query });
    this.app.on(method.toUpperCase(), path, async (c) => c.json(envelope(await handle(c))));
  }

  write<T>(
    method: 'post' | 'put' | 'delete',
    path: string,
    about: { summary: string; query?: readonly string[]; schema: z.ZodType<T> },
    handle: (c: Request, body: T) => Promise<unknown>,
  ): void {
    this.#document(method, path, about);
    this.app.on(method.toUpperCase(), path, async (c) => c.json(envelope(await handle(c, await parseBody(c, about.schema)))));
  }

  #document(
    method: 'get' | 'post' | 'put' | 'delete',
    path: string,
    { summary, query = [], schema }: { summary: string; query?: readonly string[]; schema?: z.ZodType },
  ): void {
    this.app.openAPIRegistry.registerPath({
      method,
      path,
      summary,
      request: {
        ...(query.length > 0 ? { query: z.object(Object.fromEntries(query.map((q) => [q, z.string().optional()]))) } : {}),
        ...(schema ? { body: { content: { 'application/json': { schema: schema as z.ZodObject } } } } : {}),
      },
      responses: {
        200: { description: 'the envelope {status: OK | FAIL, message, body}; FAIL: there is no such object' },
        default: { description: 'an error: {"status": "FAIL", "message"}' },
      },
    });
  }
}

/** The envelope of a success; without a body where there is none, as some clients expect. */
function envelope(body: unknown): Envelope {
  return body === undefined ? { status: 'OK', message: '' } : { status: 'OK', message: '', body };
}

/** The request's body, checked. The error names the field. Some clients send no content type. */
async function parseBody<T>(c: Request, schema: z.ZodType<T>): Promise<T> {
  const text = await bodyOf(c.env.incoming);
  let value: unknown;
  try {
    value = text.trim() === '' ? {} : JSON.parse(text);
  } catch {
    throw new AnkaError('badValue', 'the body is not valid JSON');
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue?.path.join('.');
  throw new AnkaError('badValue', `${field ? `${field}: ` : ''}${issue?.message ?? 'not as expected'}`);
}

/** The whole body. Throws `TooLarge` as soon as it is. */
function bodyOf(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  return new Promise((resolve, reject) => {
    if (Number(incoming.headers['content-length'] ?? 0) > MAX_BODY) return reject(new TooLarge());
    incoming.on('data', (chunk: Buffer) => {
      length += chunk.length;
      if (length <= MAX_BODY) return void chunks.push(chunk);
      incoming.removeAllListeners('data').pause();
      reject(new TooLarge());
    });
    incoming.once('end', () => resolve(Buffer.concat(chunks).toString('utf8')));
    incoming.once('error', reject);
    incoming.once('close', () => reject(new AnkaError('badValue', 'the request was not complete')));
  });
}
