/**
 * The API's routes: each checks its input, calls the service, and answers JSON, or NDJSON with progress for long work.
 */
import { OpenAPIHono, z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { stream } from 'hono/streaming';
import { AnkaError, type ErrorBody, type ErrorKind } from '../lib/errors.ts';
import { cardSchema, cloneSchema, createSchema, emptySchema, forceSchema, modifySchema, ruleSchema, valueSchema, waitSchema } from './schema.ts';
import type { AnkaService, CallSettings, OnProgress } from './service.ts';

const STATUS: Partial<Record<ErrorKind, number>> = {
  ...all(400, 'usage', 'badValue', 'badImage'),
  ...all(403, 'noRights'),
  ...all(404, 'vmNotFound', 'ruleNotFound', 'cardNotFound', 'unknownSetting'),
  ...all(409, 'vmNotRunning', 'badState', 'vmExists', 'ruleExists', 'cardExists', 'portTaken', 'addressTaken', 'subnetClash', 'network'),
  ...all(504, 'timeout'),
  ...all(507, 'diskFull', 'poolExhausted'),
};

function all(status: number, ...kinds: ErrorKind[]): Partial<Record<ErrorKind, number>> {
  return Object.fromEntries(kinds.map((k) => [k, status]));
}

function bodyOf(cause: unknown): ErrorBody {
  return (cause instanceof AnkaError ? cause : new AnkaError('internal', (cause as Error).message)).toBody();
}

function fail(c: Context, cause: unknown): Response {
  const kind = cause instanceof AnkaError ? cause.kind : 'internal';
  return c.json({ error: bodyOf(cause) }, (STATUS[kind] ?? 500) as 500);
}

/** The `ANKA_*` overrides of one call. Anything that is no object of strings is refused. */
function callSettings(c: Context): CallSettings {
  const header = c.req.header('x-anka-settings');
  if (!header) return {};
  const parsed = z.record(z.string().max(64), z.string().max(1024)).safeParse(safeJson(header));
  if (!parsed.success) throw new AnkaError('badValue', 'the header x-anka-settings must be a JSON object of strings');
  return parsed.data;
}

function safeJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The body, checked. The error names the field. */
async function input<T>(c: Context, schema: z.ZodType<T>): Promise<T> {
  const text = await c.req.text();
  const value = text.trim() === '' ? {} : safeJson(text);
  if (value === undefined) throw new AnkaError('badValue', 'the body is no JSON');
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue?.path.join('.');
  throw new AnkaError('badValue', `${where ? `${where}: ` : ''}${issue?.message ?? 'not as expected'}`);
}

export interface RouteDoc {
  method: 'get' | 'post' | 'put' | 'patch' | 'delete';
  path: string;
  summary: string;
  body?: z.ZodType;
}

/** Builds the app on a service. */
export function createApp(service: AnkaService, version: string): OpenAPIHono {
  const app = new OpenAPIHono();
  app.onError((cause, c) => fail(c, cause));
  app.notFound((c) => c.json({ error: new AnkaError('usage', `no such path: ${c.req.method} ${c.req.path}`).toBody() }, 404));

  const route = <T>(
    method: RouteDoc['method'],
    path: string,
    summary: string,
    schema: z.ZodType<T> | null,
    run: (c: Context, body: T) => Promise<unknown>,
  ): void => {
    document(app, { method, path, summary, ...(schema ? { body: schema } : {}) });
    app.on(method.toUpperCase(), path, async (c) => c.json(((await run(c, schema ? await input(c, schema) : (undefined as T))) ?? {}) as object));
  };
  const long = <T>(
    method: RouteDoc['method'],
    path: string,
    summary: string,
    schema: z.ZodType<T>,
    run: (c: Context, body: T, progress: OnProgress) => Promise<unknown>,
  ): void => {
    document(app, { method, path, summary, body: schema });
    app.on(method.toUpperCase(), path, async (c) => {
      const body = await input(c, schema);
      if (!c.req.header('accept')?.includes('application/x-ndjson')) return c.json(((await run(c, body, () => {})) ?? {}) as object);
      callSettings(c);
      c.header('content-type', 'application/x-ndjson');
      return stream(c, async (out) => {
        const line = (o: object): void => void out.write(`${JSON.stringify(o)}\n`);
        try {
          const result = await run(c, body, (step, fraction) => line({ progress: fraction === undefined ? { step } : { step, fraction } }));
          await out.write(`${JSON.stringify({ result: result ?? {} })}\n`);
        } catch (cause) {
          await out.write(`${JSON.stringify({ error: bodyOf(cause) })}\n`);
        }
      });
    });
  };
  const ref = (c: Context): string => c.req.param('ref') as string;

  route('get', '/v1/status', 'What the daemon is doing', null, () => service.status());
  route('post', '/v1/shutdown', 'Ends the daemon; VMs and networks go on', emptySchema, async () => service.shutdown());
  route('get', '/v1/vms', 'All VMs', null, () => service.list());
  long('post', '/v1/vms', 'Makes a VM', createSchema, (_c, b, p) => service.create(defined(b), p));
  route('get', '/v1/vms/:ref', 'A VM as it is now', null, (c) => service.show(ref(c)));
  route('patch', '/v1/vms/:ref', 'Changes name, memory or CPUs', modifySchema, (c, b) => service.modify(ref(c), defined(b)));
  route('get', '/v1/vms/:ref/config', 'A VM’s stored configuration', null, (c) => service.describe(ref(c)));
  route('get', '/v1/vms/:ref/guest', 'How to get into a guest', null, (c) => service.guest(ref(c)));
  long('post', '/v1/vms/:ref/start', 'Starts or resumes', emptySchema, (c, _b, p) => service.start(ref(c), callSettings(c), p));
  long('post', '/v1/vms/:ref/stop', 'Powers off', forceSchema, (c, b, p) => service.stop(ref(c), b.force ?? false, callSettings(c), p));
  long('post', '/v1/vms/:ref/suspend', 'Saves memory and ends the process', emptySchema, (c, _b, p) => service.suspend(ref(c), p));
  long('post', '/v1/vms/:ref/reboot', 'Restarts the guest', forceSchema, (c, b, p) => service.reboot(ref(c), b.force ?? false, callSettings(c), p));
  long('post', '/v1/vms/:ref/clone', 'Copies a VM', cloneSchema, (c, b, p) => service.clone(ref(c), b.name, p));
  long('post', '/v1/vms/:ref/wait', 'Waits for an address, or for the end', waitSchema, (c, b) => service.wait(ref(c), b.until ?? 'ip', b.timeout ?? 60));
  long('delete', '/v1/vms/:ref', 'Stops and deletes a VM', emptySchema, (c, _b, p) => service.delete(ref(c), p));
  long('post', '/v1/vms/:ref/network-card', 'Adds the card', cardSchema, (c, b, p) => service.addCard(ref(c), defined(b), callSettings(c), p));
  long('put', '/v1/vms/:ref/network-card', 'Changes the card', cardSchema, (c, b, p) => service.setCard(ref(c), defined(b), callSettings(c), p));
  route('delete', '/v1/vms/:ref/network-card', 'Removes the card', null, (c) => service.deleteCard(ref(c)));
  route('post', '/v1/vms/:ref/port-forwarding', 'Adds a forwarding rule', ruleSchema, (c, b) => service.addRule(ref(c), defined(b), callSettings(c)));
  route('delete', '/v1/vms/:ref/port-forwarding/:name', 'Removes a forwarding rule', null, (c) => service.deleteRule(ref(c), c.req.param('name') as string));
  route('get', '/v1/config', 'All settings', null, (c) => service.settings(callSettings(c)));
  route('get', '/v1/config/:key', 'A setting', null, (c) => service.setting(c.req.param('key') as string, callSettings(c)));
  route('put', '/v1/config/:key', 'Stores a setting', valueSchema, (c, b) => service.setSetting(c.req.param('key') as string, b.value));
  route('delete', '/v1/config/:key', 'Puts a setting back to its default', null, (c) => service.resetSetting(c.req.param('key') as string));
  route('get', '/v1/networks', 'The networks', null, () => service.networks());
  route('post', '/v1/networks/reset', 'Removes every network object of ours', emptySchema, () => service.resetNetworks());
  route('get', '/v1/doctor', 'What breaks the networks on this host', null, () => service.doctor());
  route('get', '/v1/vms/:ref/explain', 'What happens to a packet of, or for, a VM (query: from, to, protocol)', null, async (c) => {
    const from = c.req.query('from');
    return service.explain(ref(c), { to: c.req.query('to') ?? '', protocol: c.req.query('protocol') ?? 'tcp', ...(from === undefined ? {} : { from }) });
  });
  long('post', '/v1/base-image', 'Builds the built-in guest', emptySchema, (_c, _b, p) => service.buildBaseImage(p));

  document(app, { method: 'get', path: '/metrics', summary: 'Counters, as Prometheus reads them' });
  document(app, { method: 'get', path: '/v1/events', summary: 'What happens, as it happens: a line of JSON each' });
  route('delete', '/v1/captures/:id', 'Ends a capture', null, (c) => service.endCapture(c.req.param('id') as string));
  document(app, { method: 'get', path: '/v1/vms/:ref/capture', summary: 'The frames of a VM’s card, as pcapng, until the capture is ended' });
  app.get('/v1/vms/:ref/capture', async (c) => {
    const side = c.req.query('side') ?? 'inside';
    if (side !== 'inside' && side !== 'outside') throw new AnkaError('badValue', `side: '${side}' must be inside or outside`);
    const filter = (c.req.query('filter') ?? '').trim();
    if (filter.length > 4096) throw new AnkaError('badValue', 'filter: must have at most 4096 characters');
    const capture = await service.capture(ref(c), side, filter);
    c.header('content-type', 'application/x-pcapng');
    c.header('x-anka-capture', capture.id);
    return stream(c, async (out) => {
      out.onAbort(() => capture.abort());
      for await (const bytes of capture.bytes) {
        await out.write(bytes);
        if (out.aborted) break;
      }
    });
  });
  app.get('/metrics', async (c) => c.text(await service.metrics()));
  app.get('/v1/events', (c) => {
    c.header('content-type', 'application/x-ndjson');
    return stream(c, async (out) => {
      const off = service.onEvent((e) => void out.write(`${JSON.stringify(e)}\n`));
      await new Promise<void>((resolve) => out.onAbort(resolve));
      off();
    });
  });
  app.doc31('/v1/openapi.json', { openapi: '3.1.0', info: { title: 'ankad', version } });
  return app;
}

/** Registers a route in the OpenAPI document. */
function document(app: OpenAPIHono, doc: RouteDoc): void {
  app.openAPIRegistry.registerPath({
    method: doc.method,
    path: doc.path.replaceAll(/:(\w+)/g, '{$1}'),
    summary: doc.summary,
    request: {
      ...(doc.path.includes(':') ? { params: z.object(Object.fromEntries([...doc.path.matchAll(/:(\w+)/g)].map((m) => [m[1] as string, z.string()]))) } : {}),
      ...(doc.body ? { body: { content: { 'application/json': { schema: doc.body as z.ZodObject } } } } : {}),
    },
    responses: { 200: { description: 'done' }, default: { description: 'an error: {"error": {code, exception_type, message}}' } },
  });
}

/** Drops `undefined` fields, which the plain types do not know. */
function defined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as { [K in keyof T]: Exclude<T[K], undefined> };
}
