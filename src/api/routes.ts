/** The API's routes, by subject: VMs, network cards and rules, packets, the host. */
import type { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { stream } from 'hono/streaming';
import type { StreamingApi } from 'hono/utils/stream';
import { AnkaError } from '../lib/errors.ts';
import { EventBacklog } from './event-backlog.ts';
import { bodyOf, callSettings, Router } from './router.ts';
import {
  cardSchema,
  cloneSchema,
  createSchema,
  emptySchema,
  forceSchema,
  modifySchema,
  mountSchema,
  renameSchema,
  restoreSchema,
  ruleSchema,
  tagSchema,
  valueSchema,
  waitSchema,
} from './schema.ts';
import type { AnkaService } from './service.ts';

/** Timeout of `wait` when the request has none, seconds. */
const DEFAULT_WAIT_S = 60;
/** Longest capture filter, characters. */
const MAX_FILTER = 4096;

/** The VM's name or UUID in the path. */
const ref = (c: Context): string => c.req.param('ref') as string;

/** Builds the app on a service. */
export function createApp(service: AnkaService, version: string): OpenAPIHono {
  const router = new Router();
  addVmRoutes(router, service);
  addTagRoutes(router, service);
  addPowerRoutes(router, service);
  addNetworkCardRoutes(router, service);
  addMountRoutes(router, service);
  addPacketRoutes(router, service);
  addHostRoutes(router, service);
  addDaemonRoutes(router, service);
  router.app.doc31('/v1/openapi.json', { openapi: '3.1.0', info: { title: 'ankad', version } });
  return router.app;
}

function addVmRoutes(r: Router, service: AnkaService): void {
  r.read('get', '/v1/vms', 'List VMs', () => service.list());
  r.long('post', '/v1/vms', 'Create a VM', createSchema, (_c, b, p) => service.create(defined(b), p));
  r.read('get', '/v1/vms/:ref', 'Show the current state of a VM', (c) => service.show(ref(c)));
  r.write('patch', '/v1/vms/:ref', 'Change name, memory, CPU cores, disk size or labels', modifySchema, (c, b) => service.modify(ref(c), defined(b)));
  r.read('get', '/v1/vms/:ref/config', 'Show the stored configuration of a VM', (c) => service.describe(ref(c)));
  r.read('get', '/v1/vms/:ref/guest', 'Show how to log in to a guest', (c) => service.guest(ref(c)));
  r.raw('/v1/vms/:ref/login', 'Wait for a turn to log in to a guest; the turn lasts until the client disconnects', async (c) => {
    const turn = service.login(ref(c));
    c.header('content-type', 'application/x-ndjson');
    return stream(c, async (out) => {
      const left = new Promise<void>((resolve) => out.onAbort(resolve));
      void left.then(() => turn.end());
      try {
        await out.write(`${JSON.stringify({ turn: await turn.access })}\n`);
        await left;
      } catch (cause) {
        await out.write(`${JSON.stringify({ error: bodyOf(cause) })}\n`);
      } finally {
        turn.end();
      }
    });
  });
  r.long('post', '/v1/vms/:ref/clone', 'Clone a VM', cloneSchema, (c, b, p) => service.clone(ref(c), b.name, b.tag ?? null, p));
  r.long('delete', '/v1/vms/:ref', 'Stop and delete a VM', emptySchema, (c, _b, p) => service.delete(ref(c), p));
  r.long('post', '/v1/base-image', 'Build the image of the built-in guest', emptySchema, (_c, _b, p) => service.buildBaseImage(p));
}

function addTagRoutes(r: Router, service: AnkaService): void {
  r.read('get', '/v1/vms/:ref/tags', 'List the local tags of a VM', (c) => service.tags(ref(c)));
  r.long('post', '/v1/vms/:ref/tags', 'Save the disk of a VM as a local tag', tagSchema, (c, b, p) => service.saveTag(ref(c), defined(b), p));
  r.long('post', '/v1/vms/:ref/restore', 'Restore the disk of a VM from a local tag', restoreSchema, (c, b, p) => service.restoreTag(ref(c), b.tag, p));
  r.read('delete', '/v1/vms/:ref/tags/:tag', 'Delete a local tag', (c) => service.deleteTag(ref(c), c.req.param('tag') as string));
}

function addPowerRoutes(r: Router, service: AnkaService): void {
  r.long('post', '/v1/vms/:ref/start', 'Start or resume a VM', emptySchema, (c, _b, p) => service.start(ref(c), callSettings(c), p));
  r.long('post', '/v1/vms/:ref/stop', 'Shut down a VM, or power it off', forceSchema, (c, b, p) => service.stop(ref(c), b.force ?? false, callSettings(c), p));
  r.long('post', '/v1/vms/:ref/suspend', 'Save the memory of a VM to disk and stop it', emptySchema, (c, _b, p) => service.suspend(ref(c), p));
  r.long('post', '/v1/vms/:ref/reboot', 'Reboot or reset a VM', forceSchema, (c, b, p) => service.reboot(ref(c), b.force ?? false, callSettings(c), p));
  r.long('post', '/v1/vms/:ref/wait', 'Wait until a VM has an IP address, or is stopped', waitSchema, (c, b) =>
    service.wait(ref(c), b.until ?? 'ip', b.timeout ?? DEFAULT_WAIT_S),
  );
}

function addNetworkCardRoutes(r: Router, service: AnkaService): void {
  const card = '/v1/vms/:ref/network-card';
  r.long('post', card, 'Add the network card', cardSchema, (c, b, p) => service.addCard(ref(c), defined(b), callSettings(c), p));
  r.long('put', card, 'Change the network card', cardSchema, (c, b, p) => service.setCard(ref(c), defined(b), callSettings(c), p));
  r.read('delete', card, 'Delete the network card', (c) => service.deleteCard(ref(c)));
  r.write('post', '/v1/vms/:ref/port-forwarding', 'Add a port forwarding rule', ruleSchema, (c, b) => service.addRule(ref(c), defined(b), callSettings(c)));
  r.write('patch', '/v1/vms/:ref/port-forwarding/:name', 'Rename a port forwarding rule', renameSchema, (c, b) =>
    service.renameRule(ref(c), c.req.param('name') as string, b.name),
  );
  r.read('delete', '/v1/vms/:ref/port-forwarding/:name', 'Delete a port forwarding rule', (c) => service.deleteRule(ref(c), c.req.param('name') as string));
}

function addMountRoutes(r: Router, service: AnkaService): void {
  const mounts = '/v1/vms/:ref/mounts';
  r.read('get', mounts, 'List the shared directories of a VM', (c) => service.mounts(ref(c)));
  r.long('post', mounts, 'Share a directory of the host with a VM', mountSchema, (c, b, p) => service.mount(ref(c), defined(b), p));
  r.read('delete', `${mounts}/:mount`, 'Stop sharing a directory', (c) => service.unmount(ref(c), c.req.param('mount') as string));
}

function addPacketRoutes(r: Router, service: AnkaService): void {
  r.read('get', '/v1/vms/:ref/explain', 'Explain what happens to a packet (query: from, to, protocol)', async (c) => {
    const from = c.req.query('from');
    return service.explain(ref(c), { to: c.req.query('to') ?? '', protocol: c.req.query('protocol') ?? 'tcp', ...(from === undefined ? {} : { from }) });
  });
  r.raw('/v1/vms/:ref/capture', 'Stream the frames of a network card as pcapng (query: side, filter)', async (c) => {
    const side = c.req.query('side') ?? 'inside';
    if (side !== 'inside' && side !== 'outside') throw new AnkaError('badValue', `side: '${side}' must be inside or outside`);
    const filter = (c.req.query('filter') ?? '').trim();
    if (filter.length > MAX_FILTER) throw new AnkaError('badValue', `filter: must have at most ${MAX_FILTER} characters`);
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
  r.read('delete', '/v1/captures/:id', 'End a capture', (c) => service.endCapture(c.req.param('id') as string));
}

function addHostRoutes(r: Router, service: AnkaService): void {
  const key = (c: Context): string => c.req.param('key') as string;
  r.read('get', '/v1/config', 'List settings', (c) => service.settings(callSettings(c)));
  r.read('get', '/v1/config/:key', 'Show a setting', (c) => service.setting(key(c), callSettings(c)));
  r.write('put', '/v1/config/:key', 'Change a setting', valueSchema, (c, b) => service.setSetting(key(c), b.value));
  r.read('delete', '/v1/config/:key', 'Reset a setting to its default', (c) => service.resetSetting(key(c)));
  r.read('get', '/v1/networks', 'List the networks', () => service.networks());
  r.write('post', '/v1/networks/reset', 'Remove all network objects of anka from the host', emptySchema, () => service.resetNetworks());
  r.read('get', '/v1/doctor', 'Check the host for network problems', () => service.doctor());
}

function addDaemonRoutes(r: Router, service: AnkaService): void {
  r.read('get', '/v1/status', 'Show the status of the daemon', () => service.status());
  r.read('get', '/v1/pulse', 'Answer at once, to show that the daemon is not hung', async () => ({}));
  r.write('post', '/v1/shutdown', 'Stop the daemon; VMs and networks keep running', emptySchema, async () => service.shutdown());
  r.raw('/metrics', 'Counters in the Prometheus text format', async (c) => c.text(await service.metrics()));
  r.raw('/v1/events', 'Stream events as they occur, one JSON object a line', async (c) => {
    c.header('content-type', 'application/x-ndjson');
    return stream(c, (out) => sendEvents(out, service));
  });
}

/** Sends events until the client closes the connection. */
async function sendEvents(out: StreamingApi, service: AnkaService): Promise<void> {
  const backlog = new EventBacklog();
  let wake = (): void => {};
  let isClosed = false;
  const off = service.onEvent((event) => {
    backlog.add(event);
    wake();
  });
  const closed = new Promise<void>((resolve) =>
    out.onAbort(() => {
      isClosed = true;
      resolve();
    }),
  );
  while (!isClosed) {
    const lines = backlog.take().map((event) => `${JSON.stringify(event)}\n`);
    const next = lines.length > 0 ? out.write(lines.join('')) : new Promise<void>((resolve) => (wake = resolve));
    await Promise.race([next, closed]); // a write to a client that reads no more does not end
  }
  off();
}

/** Drops `undefined` fields, which the plain types do not allow. */
function defined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as { [K in keyof T]: Exclude<T[K], undefined> };
}
