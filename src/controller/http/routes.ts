/** The routes of Anka's controller that its clients use, for one host: instances, templates, the node, the rest. */
import { hostname } from 'node:os';
import type { TLSSocket } from 'node:tls';
import type { HttpBindings } from '@hono/node-server';
import type { OpenAPIHono } from '@hono/zod-openapi';
import type { ShownTag, VmShow } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { architecture, type InstanceBody, instanceBody, type NodeNames, type TemplateVersion, templateBody, totalRam } from '../answers.ts';
import { hostFacts } from '../host-facts.ts';
import { type Instance, LATEST } from '../instance.ts';
import type { Instances } from '../instances.ts';
import type { Vms } from '../vms.ts';
import { type AdmissionRules, refusalOf } from './admission.ts';
import { imageSchema, orderOf, type StartRequest, startSchema, terminateSchema, updateSchema } from './requests.ts';
import { failure, NotFound, type Request, Router } from './router.ts';

/** What the routes serve. */
export interface Served {
  instances: Instances;
  vms: Vms;
  admission: AdmissionRules;
  /** This host's id as a node. */
  nodeId: string;
  /** Where clients reach forwarded ports; null: at the address by which they reached the controller. */
  nodeAddress: string | null;
  /** Directory of the VMs. */
  state: string;
  version: string;
}

/** Some clients demand a value, and compare it with `basic`. */
const LICENSE = 'enterprise plus';

export function createApp(served: Served): OpenAPIHono<{ Bindings: HttpBindings }> {
  const router = new Router(async (c, next) => {
    const { incoming } = (c as Request).env;
    const header = (name: string): string | undefined => c.req.header(name);
    const refusal = refusalOf(
      {
        host: header('host'),
        origin: header('origin'),
        fetchSite: header('sec-fetch-site'),
        authorization: header('authorization'),
        hasCertificate: (incoming.socket as Partial<TLSSocket>).authorized === true,
      },
      served.admission,
    );
    if (!refusal) return next();
    const challenge = refusal.status === 401 ? { 'www-authenticate': 'Basic realm="anka"' } : {};
    return c.json(failure(refusal.message), refusal.status, { connection: 'close', ...challenge });
  });
  addInstanceRoutes(router, served);
  addTemplateRoutes(router, served);
  addNodeRoutes(router, served);
  addImageRoutes(router);
  router.app.doc31('/api/v1/openapi.json', { openapi: '3.1.0', info: { title: 'anka controller', version: served.version } });
  return router.app;
}

/** This host, as the client of a request has to name it. */
function nodeNames({ nodeId, nodeAddress }: Served, c: Request): NodeNames {
  const { localAddress = '127.0.0.1', localPort } = c.env.incoming.socket;
  const reached = localAddress.replace(/^::ffff:/, '');
  const host = reached.includes(':') ? `[${reached}]` : reached;
  const scheme = 'encrypted' in c.env.incoming.socket ? 'https' : 'http';
  return { id: nodeId, address: nodeAddress ?? reached, registry: `${scheme}://${c.req.header('host') ?? `${host}:${localPort}`}` };
}

function addInstanceRoutes(r: Router, served: Served): void {
  const { instances } = served;
  const path = '/api/v1/vm';
  r.read('get', path, 'List instances, or show one', ['id'], async (c) => {
    const id = c.req.query('id');
    const node = nodeNames(served, c);
    if (id === undefined) return listed(await bodies(served, instances.all(), node));
    const i = demand(instances, id);
    return (await bodies(served, [i], node))[0];
  });
  r.write('post', path, { summary: 'Start instances of a template', schema: startSchema }, async (_c, b) => start(served, b));
  r.write('put', path, { summary: 'Change name, external_id or metadata of an instance', query: ['id'], schema: updateSchema }, async (c, b) => {
    const { id } = demand(instances, c.req.query('id') ?? '');
    instances.update(id, {
      ...(b.name == null ? {} : { name: b.name }),
      ...(b.external_id == null ? {} : { externalId: b.external_id }),
      ...(b.metadata == null ? {} : { metadata: b.metadata }),
    });
  });
  r.write('delete', path, { summary: 'Terminate an instance: its VM is deleted', query: ['id'], schema: terminateSchema }, async (c, b) => {
    instances.terminate(demand(instances, c.req.query('id') ?? b.id ?? b.instance_id ?? '').id);
  });
}

function demand(instances: Instances, id: string): Instance {
  const i = instances.find(id);
  if (!i) throw new NotFound(`no such instance: ${id.slice(0, 80)}`);
  return i;
}

/** In a list, each instance is wrapped. */
function listed(all: readonly InstanceBody[]): object[] {
  return all.map((vm) => ({ instance_id: vm.instance_id, name: vm.name ?? null, external_id: vm.external_id ?? null, vm }));
}

/**
 * The instances with their VMs. The state is that of before the VM was looked up: clients rely on the VM of an instance
 * that is Started, so it may not be ahead. An instance whose VM was deleted by others ends.
 */
async function bodies({ instances, vms }: Served, some: readonly Instance[], node: NodeNames): Promise<InstanceBody[]> {
  const shown = await vms.showAll(some.flatMap((i) => i.vm ?? []));
  return some.map((i) => {
    const vm = i.vm === null ? null : (shown.get(i.vm) ?? null);
    if (i.vm === null || vm !== null) return instanceBody(i, vm, node);
    if (instances.find(i.id)?.vm === i.vm) instances.lost(i.id);
    return instanceBody(instances.find(i.id) ?? i, null, node);
  });
}

async function start({ instances, vms, nodeId }: Served, request: StartRequest): Promise<string[]> {
  const template = await vms.show(request.vmid);
  if (!template || instances.isInstanceVm(template))
    throw new AnkaError('badValue', `no such template: ${request.vmid}; 'anka list' lists the VMs of this host`);
  // in these words, some clients try again without the tag
  if (request.tag && request.tag !== LATEST && !(await vms.tags(template.uuid)).some((t) => t.tag === request.tag))
    throw new NotFound(`No such tag ${request.tag}`);
  if (request.version != null) throw new AnkaError('badValue', 'version: templates have no versions here; leave it out');
  if (request.node_id && request.node_id !== nodeId)
    throw new AnkaError('badValue', `no such node: ${request.node_id}; this controller has one node, ${nodeId}`);
  return instances.order(orderOf(request, template), request.count ?? 1);
}

function addTemplateRoutes(r: Router, served: Served): void {
  r.read('get', '/api/v1/registry/vm', 'List templates, or show one with its tags', ['id'], async (c) => {
    const id = c.req.query('id');
    if (id === undefined) return (await templates(served)).map(templateBody);
    const vm = await served.vms.show(id);
    if (!vm || served.instances.isInstanceVm(vm)) throw new NotFound(`no such template: ${id.slice(0, 80)}`);
    return { ...templateBody(vm), versions: versionsOf(vm, await served.vms.tags(vm.uuid)) };
  });
  r.read('get', '/api/v1/registry/disk', 'Show the disk that holds the templates', [], async () => {
    const { diskSize, diskFree } = hostFacts(served.state);
    return { total: diskSize, free: diskFree };
  });
}

async function templates({ instances, vms }: Served): Promise<VmShow[]> {
  const all = (await vms.list()).filter((vm) => !instances.isInstanceVm(vm));
  const shown = await vms.showAll(all.map((vm) => vm.uuid));
  return all.flatMap((vm) => shown.get(vm.uuid) ?? []);
}

/** The local tags of a template; without one, its present state as the latest. */
function versionsOf(vm: VmShow, tags: readonly ShownTag[]): TemplateVersion[] {
  if (tags.length === 0) return [{ tag: LATEST, number: 0, description: '', size: vm.image_size }];
  return tags.map(({ tag, description, size }, number) => ({ tag, number, description, size }));
}

function addNodeRoutes(r: Router, served: Served): void {
  r.read('get', '/api/v1/status', 'Show whether the controller runs', [], async (c) => ({
    status: 'Running',
    version: served.version,
    registry_address: nodeNames(served, c).registry,
    registry_status: 'Running',
    license: LICENSE,
  }));
  r.read('get', '/api/v1/node', 'List the nodes: this host', ['id'], async (c) => {
    const id = c.req.query('id');
    if (id !== undefined && id !== served.nodeId) throw new NotFound(`no such node: ${id.slice(0, 80)}`);
    return [await nodeBody(served, nodeNames(served, c))];
  });
  r.read('get', '/api/v1/group', 'List groups of nodes: there are none', [], async () => []);
}

async function nodeBody({ vms, instances, state, version }: Served, node: NodeNames): Promise<object> {
  const all = [...(await vms.showAll((await vms.list()).map((vm) => vm.uuid))).values()];
  const running = all.filter((vm) => vm.status === 'running');
  const facts = hostFacts(state);
  return {
    node_id: node.id,
    node_name: hostname(),
    ip_address: node.address,
    state: 'Active',
    host_arch: architecture(process.arch),
    capacity: instances.capacity,
    capacity_mode: 'number',
    vm_count: running.length,
    cpu_count: facts.cpus,
    ram: facts.ram,
    vcpu_count: running.reduce((sum, vm) => sum + vm.cpu_cores, 0),
    vram: totalRam(running),
    cpu_util: facts.cpuUse,
    ram_util: facts.ramUse,
    vcpu_override: 0,
    ram_override: 0,
    disk_size: facts.diskSize,
    free_disk_space: facts.diskFree,
    anka_disk_usage: all.reduce((sum, vm) => sum + vm.image_size, 0),
    anka_version: { product: 'anka', version, build: '0', license: LICENSE },
    usb_devices: [],
    groups: [],
    templates: all.filter((vm) => !instances.isInstanceVm(vm)).map((vm) => ({ name: vm.name, tag: vm.version ?? LATEST, uuid: vm.uuid })),
  };
}

/** Requests to save an instance as a template: there is no registry that could hold it. */
function addImageRoutes(r: Router): void {
  const refuse = async (): Promise<never> => {
    throw new AnkaError('badState', "there is no registry to save an image in; run 'anka clone VM NEW' on the host");
  };
  r.read('get', '/api/v1/image', 'List requests to save an image: there are none', ['id'], async (c) => {
    if (c.req.query('id') !== undefined) throw new NotFound('no such request');
    return [];
  });
  r.write('post', '/api/v1/image', { summary: 'Refused: there is no registry to save an image in', schema: imageSchema }, refuse);
  r.read('delete', '/api/v1/registry/revert', 'Refused: templates have no versions', ['id'], refuse);
}
