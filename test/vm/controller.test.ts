/**
 * `anka controller run` with real guests: the requests of its clients, in their order and with their headers; attacks;
 * and kill -9. What the clients parse is in docs/controller.md.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { Controller, type Library } from '../world/controller.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const TOKEN = 'a-token-for-the-tests';
const base64 = (text: string): string => Buffer.from(text).toString('base64');
const BASIC = (user: string) => [`Authorization: Basic ${base64(`${user}:${TOKEN}`)}`];
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const DATE = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;

describe.each(['kernel', 'user'] as const)('clients of the controller: %s engine', (engine) => {
  const why = missing('root', 'netns', 'qemu', ...(engine === 'kernel' ? (['tun'] as const) : []));
  describe.skipIf(why !== null)(why ?? 'can run', () => {
    let w: World;
    let anka: Anka;
    let controller: Controller;
    let template: string;

    beforeAll(async () => {
      w = new World(engine === 'kernel' ? 'rk-' : 'ru-');
      anka = new Anka(w, tinyGuest(), { ordinary: engine === 'user' });
      await anka.ok('create -m 128M -c 1 -d 1G debian');
      template = (await anka.body<{ uuid: string }>('show debian')).uuid;
      controller = await Controller.start(w, anka, '--listen 127.0.0.1:0 --max-vms 2');
    });
    afterAll(async () => {
      await controller?.end();
      if (!w) return;
      await anka.end();
      w.close();
    });

    const vms = async (): Promise<string[]> => (await anka.body<{ name: string }[]>('list')).map((v) => v.name);

    /** Logs in with a password as the executor does: no key, a script on standard input. */
    async function login(host: string, port: number, script: string): Promise<string> {
      const askpass = join(w.dir, 'askpass');
      writeFileSync(askpass, '#!/bin/sh\necho admin\n', { mode: 0o755 });
      const options = ['StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null', 'PubkeyAuthentication=no', 'NumberOfPasswordPrompts=1', 'LogLevel=ERROR'];
      const words = ['ssh', '-T', '-F', 'none', ...options.flatMap((o) => ['-o', o]), '-p', String(port), `anka@${host}`];
      return until('ssh by password', async () => {
        const child = w.host.spawn(words, { SSH_ASKPASS: askpass, SSH_ASKPASS_REQUIRE: 'force' }, 'pipe');
        let out = '';
        child.stdout?.on('data', (d: Buffer) => {
          out += d.toString();
        });
        child.stdin?.end(script);
        const status = await new Promise((resolve) => child.once('close', resolve));
        return status === 0 ? out : null;
      });
    }

    async function terminated(library: Library, id: string): Promise<void> {
      await controller.ok(library, 'DELETE /api/v1/vm', { id });
      await until('the VM was deleted', async () => {
        const { body } = await controller.ask(library, `GET /api/v1/vm?id=${id}`);
        return body === undefined || body.instance_state === 'Terminated';
      });
      expect(await vms()).toEqual(['debian']);
    }

    test('Jenkins: settings, an instance whose tag does not exist, its update, ssh, its end', async () => {
      const ask = (request: string, body?: object) => controller.ask('java', request, body);
      const ok = (request: string, body?: object) => controller.ok('java', request, body);
      expect(await ok('GET /api/v1/status')).toMatchObject({
        status: 'Running',
        registry_status: 'Running',
        version: expect.any(String),
        registry_address: controller.url,
      });
      expect(await ok('GET /api/v1/registry/vm')).toEqual([
        { id: template, name: 'debian', size: expect.any(Number), arch: expect.stringMatching(/^(amd|arm)64$/) },
      ]);
      expect((await ok(`GET /api/v1/registry/vm?id=${template}`)).versions).toMatchObject([{ tag: 'latest' }]);
      expect(await ok('GET /api/v1/group')).toEqual([]);
      expect(await ok('GET /api/v1/node')).toMatchObject([{ node_id: expect.stringMatching(UUID), state: 'Active', capacity_mode: 'number', capacity: 2 }]);
      const order = {
        vmid: template,
        tag: 'v1',
        name_template: '$template_name-$node_name-$ts',
        startup_script: base64('echo begun; echo from Jenkins >/tmp/started; exit 3\n'),
        priority: 500,
        name: 'Jenkins node',
        external_id: 'http://jenkins/computer/1',
        vcpu: 2,
        vram: 192,
      };
      // the plugin compares these words, and then leaves the tag out
      expect(await ask('POST /api/v1/vm', order)).toEqual({ http: 200, status: 'FAIL', message: 'No such tag v1' });
      await anka.ok('push --local --tag v1 debian');
      expect((await ok(`GET /api/v1/registry/vm?id=${template}`)).versions).toMatchObject([{ tag: 'v1', number: 0 }]);
      const [ofTag] = await ok('POST /api/v1/vm', { vmid: template, tag: 'v1', name: 'of a tag' });
      await until('the instance of the tag is started', async () => (await ok(`GET /api/v1/vm?id=${ofTag}`)).instance_state === 'Started');
      await terminated('java', ofTag);
      const { tag, ...untagged } = order;
      expect(tag).toBe('v1');
      const [id, ...others] = await ok('POST /api/v1/vm', untagged);
      expect([id, others]).toEqual([expect.stringMatching(UUID), []]);
      expect(
        await ok(`PUT /api/v1/vm?id=${id}`, { external_id: 'http://jenkins/computer/2', name: 'renamed', metadata: { job_identifier: 'job#7' } }),
      ).toBeUndefined();
      const listed = await until('it has an address', async () => {
        const i = (await ok('GET /api/v1/vm')).find((one: { instance_id: string }) => one.instance_id === id);
        for (const field of [i.vm.instance_state, i.vm.vmid, i.vm.cr_time]) expect(field).toEqual(expect.any(String));
        expect(i.vm.message).toBeUndefined();
        if (i.vm.vminfo) for (const field of [i.vm.vminfo.uuid, i.vm.vminfo.status, i.vm.vminfo.name]) expect(field).toEqual(expect.any(String));
        return i.vm.instance_state === 'Started' && i.vm.vminfo.ip ? i : null;
      });
      expect(listed).toMatchObject({
        name: 'renamed',
        external_id: 'http://jenkins/computer/2',
        vm: { vmid: template, metadata: { job_identifier: 'job#7' } },
      });
      const { vminfo } = listed.vm;
      expect(vminfo).toMatchObject({ status: 'running', cpu_cores: 2, ram: '192M', host_ip: '127.0.0.1', ip: expect.stringMatching(/^192\.168\.64\./) });
      expect(vminfo.name).toMatch(/^debian-.*-\d{13}$/);
      expect(vminfo.port_forwarding).toMatchObject([{ guest_port: 22, host_port: expect.any(Number), protocol: 'tcp' }]);
      expect(await ok('GET /api/v1/registry/vm'), 'an instance is no template').toHaveLength(1);
      const script = await until('the script has ended', async () => (await ok(`GET /api/v1/vm?id=${id}`)).startup_script);
      expect(script).toMatchObject({ return_code: 3, did_timeout: false, stdout: 'begun\n' });
      expect(await login(vminfo.host_ip, vminfo.port_forwarding[0].host_port, 'cat /tmp/started\n')).toBe('from Jenkins\n');
      expect(readFileSync(join(anka.home, 'controller.json'), 'utf8'), 'a script is not kept').not.toContain(order.startup_script);
      expect(await ok('GET /api/v1/image')).toEqual([]);
      expect(await ask('POST /api/v1/image', { id, target_vm_id: template, tag: 't', description: '', suspend: false })).toMatchObject({
        http: 409,
        status: 'FAIL',
      });
      await terminated('java', id);
      expect(await ask('DELETE /api/v1/vm', { id: 'nosuch' })).toEqual({ http: 200, status: 'FAIL', message: 'no such instance: nosuch' });
      expect(await ask('GET /api/v1/vm?id=nosuch')).toEqual({ http: 200, status: 'FAIL', message: 'no such instance: nosuch' });
    });

    test('GitLab executor: prepare, run with ssh by password, cleanup', async () => {
      const ok = (request: string, body?: object) => controller.ok('go', request, body);
      const found = (await ok('GET /api/v1/registry/vm?apiVer=v1')).find((t: { name: string }) => t.name === 'debian');
      const external_id = 'https://gitlab.example.com/group/project/-/jobs/17';
      const order = {
        vmid: found.id,
        external_id,
        startup_script: base64('sleep 1'),
        script_monitoring: true,
        script_timeout: 300,
        startup_script_condition: 0,
      };
      const [id] = await ok('POST /api/v1/vm', order);
      const states = new Set<string>();
      await until('the instance is scheduled', async () => {
        const { instance_state, vminfo } = await ok(`GET /api/v1/vm?id=${id}`);
        states.add(instance_state);
        if (instance_state === 'Started') expect(vminfo).toMatchObject({ status: 'running', port_forwarding: [{ guest_port: 22 }] });
        expect(['Scheduling', 'Pulling', 'Started']).toContain(instance_state);
        return instance_state === 'Started';
      });
      expect(states, 'it is not Started before its script has succeeded').toContain('Pulling');
      // the stage `run` is another process: it finds the instance by the URL of the job
      const instance = (await ok('GET /api/v1/vm')).map((i: { vm: object }) => i.vm).find((vm: { external_id: string }) => vm.external_id === external_id);
      expect(instance).toMatchObject({ instance_id: id, instance_state: 'Started', startup_script: { return_code: 0 } });
      const rule = instance.vminfo.port_forwarding.find((r: { guest_port: number; protocol: string }) => r.guest_port === 22 && r.protocol === 'tcp');
      const [node] = await ok(`GET /api/v1/node?id=${instance.node_id}`);
      expect(node).toMatchObject({ node_id: instance.node_id, node_name: expect.any(String), ip_address: '127.0.0.1' });
      expect(await login(node.ip_address, rule.host_port, 'echo job; id -un\n')).toBe('job\nanka\n');
      // the node is named as the client reached it
      const outside = (await controller.ask('go', 'GET /api/v1/node?id=00000000-0000-0000-0000-000000000000')) as { http: number; message: string };
      expect([outside.http, outside.message]).toEqual([200, 'no such node: 00000000-0000-0000-0000-000000000000']);
      await terminated('go', id);
    });

    test('a monitored script that fails or takes too long: Error, and the VM is deleted, kept or stopped', async () => {
      const order = (script: string, rest: object) => ({
        vmid: 'debian',
        startup_script: base64(script),
        script_monitoring: true,
        startup_script_condition: 1,
        ...rest,
      });
      const [deleted] = await controller.ok('go', 'POST /api/v1/vm', order('echo no; exit 7', { script_fail_handler: 2 }));
      const [stopped] = await controller.ok('go', 'POST /api/v1/vm', order('echo slow; sleep 600', { script_timeout: 20 }));
      const failed = await controller.reaches(deleted, 'Error');
      expect(failed).toMatchObject({ message: 'the startup script failed: status 7', startup_script: { return_code: 7, stdout: 'no\n' } });
      const slow = await controller.reaches(stopped, 'Error');
      expect(slow).toMatchObject({
        message: 'the startup script failed: the script did not end within 20 s',
        startup_script: { return_code: -1, did_timeout: true, stdout: 'slow\n' },
      });
      expect(slow.vminfo.status).toBe('stopped');
      await until('one VM was deleted', async () => (await vms()).length === 2);
      await controller.ok('go', 'DELETE /api/v1/vm', { id: deleted });
      await terminated('go', stopped);
    });

    test('more than may run: the rest waits, and the most urgent starts first', async () => {
      const [a, b] = await controller.ok('java', 'POST /api/v1/vm', { vmid: template, count: 2, name_template: 'ci' });
      const [late] = await controller.ok('java', 'POST /api/v1/vm', { vmid: template, priority: 900 });
      const [urgent] = await controller.ok('java', 'POST /api/v1/vm', { vmid: template, priority: 1 });
      await controller.reaches(a, 'Started');
      await controller.reaches(b, 'Started');
      expect((await vms()).filter((n) => n.startsWith('ci')).sort(), 'a name that is taken gets digits of the id').toEqual([
        'ci',
        expect.stringMatching(/^ci-[0-9a-f]{8}$/),
      ]);
      const states = async () => Promise.all([late, urgent].map(async (id) => (await controller.ok('java', `GET /api/v1/vm?id=${id}`)).instance_state));
      expect(await states()).toEqual(['Scheduling', 'Scheduling']);
      await controller.ok('java', 'DELETE /api/v1/vm', { id: a });
      await controller.reaches(urgent, 'Started');
      expect(await states()).toEqual(['Scheduling', 'Started']);
      expect(await controller.ask('java', 'POST /api/v1/vm', { vmid: template, count: 50 })).toMatchObject({ http: 200 });
      expect(await controller.ask('java', 'POST /api/v1/vm', { vmid: template, count: 50 })).toMatchObject({ http: 503, status: 'FAIL' });
      const all: { instance_id: string; vm: { instance_state: string } }[] = await controller.ok('java', 'GET /api/v1/vm');
      const open = all.filter((i) => i.vm.instance_state !== 'Terminated'); // the others are about to leave the list
      await Promise.all(open.map((i) => controller.ok('java', 'DELETE /api/v1/vm', { id: i.instance_id })));
      await until('only the template is left', async () => (await vms()).join() === 'debian');
    });

    test('a VM that is no instance is neither shown, changed nor terminated; one that a user deleted is Terminated', async () => {
      await anka.ok('create -m 128M -c 1 -d 1G mine');
      const { uuid } = await anka.body<{ uuid: string }>('show mine');
      for (const id of [uuid, 'mine', template]) {
        expect(await controller.ask('go', 'DELETE /api/v1/vm', { id })).toMatchObject({ status: 'FAIL', message: `no such instance: ${id}` });
        expect(await controller.ask('go', `DELETE /api/v1/vm?id=${id}`)).toMatchObject({ status: 'FAIL' });
        expect(await controller.ask('go', `PUT /api/v1/vm?id=${id}`, { name: 'x' })).toMatchObject({ status: 'FAIL' });
      }
      expect(await controller.ask('go', `DELETE /api/v1/registry/vm?id=${uuid}`)).toMatchObject({ http: 404, status: 'FAIL' });
      expect((await vms()).sort()).toEqual(['debian', 'mine']);
      const [id] = await controller.ok('go', 'POST /api/v1/vm', { vmid: 'mine' });
      const { vminfo } = await controller.reaches(id, 'Started');
      expect(await controller.ask('go', 'POST /api/v1/vm', { vmid: vminfo.uuid }), 'an instance is no template').toMatchObject({ http: 400 });
      await anka.ok(`delete --yes ${vminfo.uuid}`);
      expect(await controller.reaches(id, 'Terminated')).toMatchObject({ message: expect.stringContaining('deleted') });
      await anka.ok('delete --yes mine');
    });

    test('kill -9 at any moment: the next controller finishes what was begun, and nothing is left', async () => {
      for (const moment of [0, 60, 150, 300, 500, 800, 1200, 2000]) {
        const [id] = await controller.ok('go', 'POST /api/v1/vm', { vmid: template, name: `after ${moment} ms` });
        await sleep(moment);
        await controller.end('SIGKILL');
        controller = await Controller.start(w, anka, '--listen 127.0.0.1:0 --max-vms 2');
        const { vminfo } = await controller.reaches(id, 'Started');
        expect((await vms()).sort(), `killed after ${moment} ms`).toEqual(['debian', vminfo.name].sort());
        await controller.ok('go', 'DELETE /api/v1/vm', { id });
        await sleep(moment / 4);
        await controller.end('SIGKILL');
        controller = await Controller.start(w, anka, '--listen 127.0.0.1:0 --max-vms 2');
        await until('only the template is left', async () => (await vms()).join() === 'debian');
      }
    });

    test('kill -9 of a controller that is to terminate an instance while it is cloned', async () => {
      const [id] = await controller.ok('go', 'POST /api/v1/vm', { vmid: template });
      await controller.ok('go', 'DELETE /api/v1/vm', { id });
      await controller.end('SIGKILL');
      controller = await Controller.start(w, anka, '--listen 127.0.0.1:0 --max-vms 2');
      await until('it is over', async () => {
        const { body } = await controller.ask('go', `GET /api/v1/vm?id=${id}`);
        return body === undefined || body.instance_state === 'Terminated';
      });
      expect(await vms()).toEqual(['debian']);
    });

    test('one controller for a state directory; its instances survive kill -9 of the daemon', async () => {
      const second = await anka.run(['controller', 'run', '--listen', '127.0.0.1:0']);
      expect([second.status, second.stderr]).toEqual([6, expect.stringMatching(/^anka: another controller runs \(pid \d+\); stop it first\n$/)]);
      const [id] = await controller.ok('go', 'POST /api/v1/vm', { vmid: template });
      await controller.reaches(id, 'Started');
      await anka.killDaemon();
      expect(await controller.ok('go', `GET /api/v1/vm?id=${id}`)).toMatchObject({ instance_state: 'Started', vminfo: { status: 'running' } });
      await terminated('go', id);
    });
  });
});

const why = missing('root', 'netns', 'qemu', 'tun');
describe.skipIf(why !== null)(`a controller with a token${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  let controller: Controller;

  beforeAll(async () => {
    w = new World('rt-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 128M -c 1 -d 1G debian');
    await anka.ok('modify debian add port-forwarding -g 9079 engine');
    writeFileSync(join(w.dir, 'token'), `${TOKEN}\n`, { mode: 0o600 });
    controller = await Controller.start(w, anka, `--listen 10.9.0.2:0 --token-file ${join(w.dir, 'token')}`);
  });
  afterAll(async () => {
    await controller?.end();
    if (!w) return;
    await anka.end();
    w.close();
  });

  test("drone's ankabuild: ping, an instance with a monitored script, its first forwarded port, its end", async () => {
    const root = BASIC('root');
    const json = [...root, 'Content-Type: application/json'];
    const status = await controller.ok('go', 'GET /api/v1/status', undefined, root);
    expect(status.status).toBe('Running');
    for (const field of [status.license, status.registry_address]) expect(field).not.toBe('');
    const order = {
      name: 'runner-pool-abcdefgh',
      startup_script: base64('echo up'),
      script_monitoring: true,
      script_timeout: 200,
      script_fail_handler: 2,
      vmid: (await anka.body<{ uuid: string }>('show debian')).uuid,
      disk: { size: '', skip_container_size: false },
    };
    const [id] = await controller.ok('go', 'POST /api/v1/vm', order, json);
    const started = await until('it is neither Scheduling nor Pulling', async () => {
      const i = await controller.ok('go', `GET /api/v1/vm?id=${id}`, undefined, root);
      expect(Number.isInteger(i.progress), 'Go parses it as an int').toBe(true);
      return ['Scheduling', 'Pulling'].includes(i.instance_state) ? null : i;
    });
    expect(started).toMatchObject({ instance_state: 'Started', name: order.name, ts: expect.stringMatching(DATE), cr_time: expect.stringMatching(DATE) });
    expect(started.vminfo).toMatchObject({ host_ip: '10.9.0.2', creation_date: expect.stringMatching(DATE) });
    expect(started.vminfo.port_forwarding[0], "the template's own rule is the first").toMatchObject({ guest_port: 9079, rule_name: 'engine' });
    expect((await controller.ask('go', 'DELETE /api/v1/vm', { id }, json)).http).toBe(200);
    await until('the VM was deleted', async () => (await anka.body<object[]>('list')).length === 1);
    expect((await controller.ask('go', 'POST /api/v1/vm', { vmid: 'nosuch' }, json)).http, 'drone reads body[0] of any success').toBe(400);
  });

  test('the Prometheus exporter: all that it scrapes, with its types', async () => {
    const scrape = (path: string) => controller.ok('go', `GET ${path}`, undefined, BASIC('exporter'));
    const uint = (n: unknown) => expect(Number.isInteger(n) && (n as number) >= 0, String(n)).toBe(true);
    expect(await scrape('/api/v1/status')).toMatchObject({ status: 'Running', registry_status: 'Running' });
    const [t] = await scrape('/api/v1/registry/vm');
    uint(t.size);
    const { versions } = await scrape(`/api/v1/registry/vm?id=${t.id}`);
    expect(versions).toEqual([expect.objectContaining({ tag: expect.stringMatching(/^(latest|v1)$/), size: expect.any(Number) })]);
    const [node] = await scrape('/api/v1/node');
    for (const field of ['cpu_count', 'ram', 'vm_count', 'vcpu_count', 'vram', 'free_disk_space', 'anka_disk_usage', 'disk_size', 'capacity'])
      uint(node[field]);
    for (const share of [node.cpu_util, node.ram_util]) expect(share >= 0 && share <= 1).toBe(true);
    expect(node).toMatchObject({ state: 'Active', host_arch: expect.stringMatching(/^(amd|arm)64$/), groups: [] });
    const disk = await scrape('/api/v1/registry/disk');
    uint(disk.total);
    uint(disk.free);
    for (const i of await scrape('/api/v1/vm'))
      for (const f of ['instance_state', 'vmid', 'group_id', 'arch', 'cr_time', 'ts']) expect(i.vm[f]).toEqual(expect.any(String));
  });

  test('TeamCity: external_id is a string in each instance', async () => {
    const json = [`Authorization: Bearer ${TOKEN}`];
    const [id] = await controller.ok('java', 'POST /api/v1/vm', { vmid: 'debian', external_id: 'profile-1', vcpu: 1, vram: 128 }, json);
    const [i] = await controller.ok('java', 'GET /api/v1/vm', undefined, json).then((all) => all.filter((x: { instance_id: string }) => x.instance_id === id));
    expect(i.vm.external_id).toBe('profile-1');
    await controller.ok('java', `DELETE /api/v1/vm?id=${id}`, undefined, json);
    await until('the VM was deleted', async () => (await anka.body<object[]>('list')).length === 1);
  });

  test('without the token, with a wrong one, and from web pages: nothing', async () => {
    const statusOf = async (...headers: string[]) => {
      const { http, message } = await controller.ask('go', 'GET /api/v1/vm', undefined, headers);
      return [http, message];
    };
    for (const headers of [
      [],
      ['Authorization: Bearer wrong-token-wrong'],
      [`Authorization: Basic ${base64('root:')}`],
      [`Authorization: Basic ${base64(TOKEN)}`],
    ])
      expect(await statusOf(...headers), headers.join()).toEqual([401, 'Authentication Required']);
    expect(await statusOf(...BASIC('root'), 'Origin: https://evil.example')).toEqual([403, 'requests of web pages of another origin are refused']);
    expect(await statusOf(...BASIC('root'), 'Sec-Fetch-Site: cross-site')).toEqual([403, 'requests of web pages of another origin are refused']);
    for (const path of ['/api/v1/openapi.json', '/nosuch', '/']) expect((await controller.ask('go', `GET ${path}`)).http, path).toBe(401);
    const json = [...BASIC('root'), 'Content-Type: application/json'];
    expect(await controller.ask('go', 'GET /api/v1/nosuch', undefined, json)).toMatchObject({ http: 404, status: 'FAIL' });
    expect(await controller.ask('go', 'POST /api/v1/vm', '{"vmid":', json)).toMatchObject({ http: 400, message: 'the body is not valid JSON' });
    expect(await controller.ask('go', 'POST /api/v1/vm', { vmid: 'debian', count: -1 }, json)).toMatchObject({
      http: 400,
      message: expect.stringMatching(/^count: /),
    });
    expect(await controller.ask('go', 'POST /api/v1/vm', { vmid: 'debian', node_id: 'another' }, json)).toMatchObject({ http: 400 });
    expect(await anka.body<object[]>('list')).toHaveLength(1);
  });

  test('too large, too slow, too many: bounded, and the next client is answered', async () => {
    const root = BASIC('root');
    expect(await controller.ask('go', 'POST /api/v1/vm', { vmid: 'nosuch' }, [...root, 'Transfer-Encoding: chunked'])).toMatchObject({
      http: 400,
      message: expect.stringMatching(/^no such template: nosuch/),
    });
    const huge = JSON.stringify({ vmid: 'debian', startup_script: 'A'.repeat(2 << 20) });
    expect((await controller.ask('go', 'POST /api/v1/vm', huge, root)).http).toBe(413);
    expect((await controller.ask('go', 'POST /api/v1/vm', huge, [...root, 'Transfer-Encoding: chunked'])).http).toBe(413);
    expect((await controller.ask('go', 'GET /api/v1/vm', undefined, [`X-Large: ${'x'.repeat(20_000)}`])).http).toBe(431);
    const { hostname, port } = new URL(controller.url);
    /** What is answered to these bytes, in the notation of printf. */
    const raw = async (text: string): Promise<string> => {
      const child = w.host.spawn(['bash', '-c', 'exec 3<>/dev/tcp/$0/$1; printf "$2" >&3; cat <&3', hostname, port, text]);
      let out = '';
      child.stdout?.on('data', (d: Buffer) => {
        out += d.toString();
      });
      await new Promise((resolve) => child.once('close', resolve));
      return out;
    };
    const half = 'POST /api/v1/vm HTTP/1.1\\r\\nHost: x\\r\\n';
    const [headers, body, garbage] = await Promise.all([
      raw(half),
      raw(`${half}${root[0]}\\r\\nContent-Length: 100\\r\\n\\r\\n{`),
      raw('\\x16\\x03\\x01 no HTTP\\r\\n\\r\\n'),
    ]);
    expect(headers).toContain('408 Request Timeout');
    expect(body).toContain('408 Request Timeout');
    expect(garbage).toContain('400 Bad Request');
    const idle = Array.from({ length: 300 }, () => `exec {fd}<>/dev/tcp/${hostname}/${port} || true`).join('; ');
    const crowd = w.host.spawn(['bash', '-c', `${idle}; echo open; sleep 600`]);
    await new Promise((resolve) => crowd.stdout?.once('data', resolve));
    crowd.kill('SIGKILL');
    await until('the next client is answered', async () => (await controller.ask('go', 'GET /api/v1/status', undefined, root)).http === 200);
  });

  test('the OpenAPI document lists every path', async () => {
    const document = (await controller.ask('go', 'GET /api/v1/openapi.json', undefined, BASIC('root'))) as unknown as { paths: Record<string, object> };
    const paths = Object.entries(document.paths).flatMap(([path, methods]) => Object.keys(methods).map((m) => `${m} ${path}`));
    expect(paths.sort()).toEqual([
      'delete /api/v1/registry/revert',
      'delete /api/v1/vm',
      'get /api/v1/group',
      'get /api/v1/image',
      'get /api/v1/node',
      'get /api/v1/registry/disk',
      'get /api/v1/registry/vm',
      'get /api/v1/status',
      'get /api/v1/vm',
      'post /api/v1/image',
      'post /api/v1/vm',
      'put /api/v1/vm',
    ]);
  });
});

describe.skipIf(why !== null)(`who may use a controller${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;

  beforeAll(() => {
    w = new World('ra-');
    anka = new Anka(w, tinyGuest());
  });
  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('without a token: the loopback only, by its own names only', async () => {
    const open = await anka.run(['controller', 'run', '--listen', '0.0.0.0:0']);
    expect([open.status, open.stderr]).toEqual([7, expect.stringContaining('without a token everybody could use the controller there')]);
    const controller = await Controller.start(w, anka);
    try {
      const host = async (name: string) => (await controller.ask('go', 'GET /api/v1/status', undefined, [`Host: ${name}`])).http;
      expect(await Promise.all(['127.0.0.1:1', 'localhost', 'evil.example', '10.9.0.2'].map(host))).toEqual([200, 200, 403, 403]);
      expect((await controller.ask('go', 'POST /api/v1/vm', { vmid: 'x' }, ['Origin: https://evil.example'])).http).toBe(403);
      expect(w.host.attempt(`curl -s -m 5 http://10.9.0.2:${new URL(controller.url).port}/api/v1/status`)).toBeNull();
    } finally {
      await controller.end();
    }
  });

  test('TLS: a token, or a certificate of the CA', async () => {
    const d = w.dir;
    w.host.run(`cd ${d} && umask 077
      openssl req -x509 -newkey ed25519 -nodes -keyout ca.key -out ca.pem -days 1 -subj /CN=ca
      openssl req -newkey ed25519 -nodes -keyout client.key -out client.csr -subj /CN=jenkins
      openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem -days 1
      openssl req -x509 -newkey ed25519 -nodes -keyout other.key -out other.pem -days 1 -subj /CN=other 2>/dev/null`);
    const controller = await Controller.start(w, anka, `--listen 0.0.0.0:0 --cert ${d}/ca.pem --key ${d}/ca.key --client-ca ${d}/ca.pem`);
    try {
      const { port } = new URL(controller.url);
      const as = (name: string) =>
        w.host.run(
          `curl -sk ${name && `--cert ${d}/${name}.pem --key ${d}/${name}.key`} -o /dev/null -w '%{http_code}' https://10.9.0.2:${port}/api/v1/status`,
        );
      expect([as('client'), as('other'), as('')]).toEqual(['200', '401', '401']);
    } finally {
      await controller.end();
    }
  });

  test.each([
    ['--token-file TOKEN --listen 127.0.0.1:0', 20, /other users can read it; run 'chmod 600 /],
    ['--token-file /nosuch --listen 127.0.0.1:0', 7, /--token-file \/nosuch: ENOENT/],
    ['--listen 127.0.0.1', 7, /must be ADDRESS:PORT/],
    ['--listen 192.0.2.1:80 --token-file GOOD', 7, /this host has no such address/],
    ['--cert x --listen 127.0.0.1:0', 7, /--cert and --key belong together/],
    ['--max-vms 0', 2, /is not in the range 1<=x<=100/],
  ])('%s: one sentence', async (words, status, message) => {
    writeFileSync(join(w.dir, 'TOKEN'), TOKEN, { mode: 0o644 });
    writeFileSync(join(w.dir, 'GOOD'), TOKEN, { mode: 0o600 });
    const line = words.replace(/TOKEN|GOOD/, (name) => join(w.dir, name));
    const r = await anka.run(['controller', 'run', ...line.split(' ')]);
    expect([r.status, r.stderr.trim().split('\n').at(-1)]).toEqual([status, expect.stringMatching(message)]);
    const json = await anka.run(['-j', 'controller', 'run', ...line.split(' ')]);
    expect(JSON.parse(json.stdout)).toMatchObject({ status: 'ERROR', code: status });
  });
});
