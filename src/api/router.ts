/**
 * Declares routes: each checks its input by a schema, calls a handler, and answers JSON, or NDJSON with progress for a
 * long operation. Every route is also registered in the OpenAPI document.
 */
import { OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { stream } from 'hono/streaming';
import { AnkaError, ankaError, type ErrorBody, type ErrorKind } from '../lib/errors.ts';
import type { CallSettings, OnProgress } from './service.ts';

const STATUS: Partial<Record<ErrorKind, number>> = {
  ...sameStatus(400, 'usage', 'badValue', 'badImage'),
  ...sameStatus(403, 'noRights'),
  ...sameStatus(404, 'vmNotFound', 'ruleNotFound', 'cardNotFound', 'mountNotFound', 'unknownSetting'),
  ...sameStatus(409, 'vmNotRunning', 'badState', 'vmExists', 'ruleExists', 'cardExists', 'mountExists', 'portTaken', 'addressTaken', 'subnetClash', 'network'),
  ...sameStatus(504, 'timeout'),
  ...sameStatus(507, 'diskFull', 'poolExhausted'),
};

function sameStatus(status: number, ...kinds: ErrorKind[]): Partial<Record<ErrorKind, number>> {
  return Object.fromEntries(kinds.map((k) => [k, status]));
}

/** An error as clients get it. */
export function bodyOf(cause: unknown): ErrorBody {
  return ankaError(cause).toBody();
}

function errorResponse(c: Context, cause: unknown): Response {
  const error = ankaError(cause);
  return c.json({ error: error.toBody() }, (STATUS[error.kind] ?? 500) as 500);
}

/** The `ANKA_*` overrides of one call. Throws unless they are an object of strings. */
export function callSettings(c: Context): CallSettings {
  const header = c.req.header('x-anka-settings');
  if (!header) return {};
  const parsed = z.record(z.string().max(64), z.string().max(1024)).safeParse(parseJson(header));
  if (!parsed.success) throw new AnkaError('badValue', 'the header x-anka-settings must be a JSON object of strings');
  return parsed.data;
}

/** `undefined` when the text is not valid JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The request's body, checked. The error names the field. */
async function parseBody<T>(c: Context, schema: z.ZodType<T>): Promise<T> {
  const text = await c.req.text();
  const value = text.trim() === '' ? {} : parseJson(text);
  if (value === undefined) throw new AnkaError('badValue', 'the body is not valid JSON');
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue?.path.join('.');
  throw new AnkaError('badValue', `${field ? `${field}: ` : ''}${issue?.message ?? 'not as expected'}`);
}

/** A route's method, path and line in the OpenAPI document: `GET /v1/vms/:ref`. */
interface RouteInfo {
  method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  path: string;
  summary: string;
}

/** The routes of one app. */
export class Router {
  readonly app = new OpenAPIHono();

  constructor() {
    this.app.onError((cause, c) => errorResponse(c, cause));
    this.app.notFound((c) =>
      c.json({ error: new AnkaError('usage', `no such path: ${c.req.method} ${c.req.path}; GET /v1/openapi.json lists all paths`).toBody() }, 404),
    );
  }

  /** A route without a body that answers JSON. */
  read(method: RouteInfo['method'], path: string, summary: string, handle: (c: Context) => Promise<unknown>): void {
    this.document({ method, path, summary });
    this.app.on(method.toUpperCase(), path, async (c) => c.json(((await handle(c)) ?? {}) as object));
  }

  /** A route with a body that answers JSON. */
  write<T>(method: RouteInfo['method'], path: string, summary: string, schema: z.ZodType<T>, handle: (c: Context, body: T) => Promise<unknown>): void {
    this.document({ method, path, summary }, schema);
    this.app.on(method.toUpperCase(), path, async (c) => c.json(((await handle(c, await parseBody(c, schema))) ?? {}) as object));
  }

  /** A long operation: NDJSON with progress if the client accepts it, otherwise JSON at the end. */
  long<T>(
    method: RouteInfo['method'],
    path: string,
    summary: string,
    schema: z.ZodType<T>,
    handle: (c: Context, body: T, progress: OnProgress) => Promise<unknown>,
  ): void {
    this.document({ method, path, summary }, schema);
    this.app.on(method.toUpperCase(), path, async (c) => {
      const body = await parseBody(c, schema);
      if (!c.req.header('accept')?.includes('application/x-ndjson')) return c.json(((await handle(c, body, () => {})) ?? {}) as object);
      callSettings(c); // throws before the answer has begun
      c.header('content-type', 'application/x-ndjson');
      return stream(c, async (out) => {
        const line = (o: object): void => void out.write(`${JSON.stringify(o)}\n`);
        try {
          const result = await handle(c, body, (step, fraction) => line({ progress: fraction === undefined ? { step } : { step, fraction } }));
          await out.write(`${JSON.stringify({ result: result ?? {} })}\n`);
        } catch (cause) {
          await out.write(`${JSON.stringify({ error: bodyOf(cause) })}\n`);
        }
      });
    });
  }

  /** A GET route whose handler makes the response, such as a stream. */
  raw(path: string, summary: string, handle: (c: Context) => Promise<Response>): void {
    this.document({ method: 'get', path, summary });
    this.app.get(path, handle);
  }

  /** Registers a route in the OpenAPI document. */
  private document(route: RouteInfo, body?: z.ZodType): void {
    const parameters = [...route.path.matchAll(/:(\w+)/g)].map((m) => [m[1] as string, z.string()]);
    this.app.openAPIRegistry.registerPath({
      method: route.method,
      path: route.path.replaceAll(/:(\w+)/g, '{$1}'),
      summary: route.summary,
      request: {
        ...(parameters.length > 0 ? { params: z.object(Object.fromEntries(parameters)) } : {}),
        ...(body ? { body: { content: { 'application/json': { schema: body as z.ZodObject } } } } : {}),
      },
      responses: { 200: { description: 'success' }, default: { description: 'an error: {"error": {code, exception_type, message}}' } },
    });
  }
}
