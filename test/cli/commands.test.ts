/**
 * The command as scripts and people use it: help, JSON, tables, alternative syntax, settings, completion, and the
 * OpenAPI document.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');

describe.skipIf(why !== null)(`the command${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;

  beforeAll(async () => {
    w = new World('tm-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 128M -d 1G vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  const get = (path: string): Promise<string> =>
    new Promise((resolve, reject) => {
      request({ socketPath: join(anka.home, 'run/ankad.sock'), path, headers: { host: 'ankad' } }, (r) => {
        let text = '';
        r.on('data', (d: Buffer) => {
          text += d.toString();
        });
        r.on('end', () => resolve(text));
      })
        .on('error', reject)
        .end();
    });

  test('B84: every command has --help, which exits with 0', async () => {
    const top = (await anka.ok('--help')).split('Commands:')[1] as string;
    const commands = [...top.matchAll(/^ {2}([a-z]+)/gm)].map((m) => m[1] as string);
    expect(commands).toEqual(expect.arrayContaining(['create', 'list', 'show', 'modify', 'run', 'cp', 'config', 'doctor', 'completion']));
    const inner = [
      'set',
      'add',
      'delete',
      'network',
      'port',
      'set network-card',
      'set ram',
      'set cpu',
      'set name',
      'add network-card',
      'add port-forwarding',
      'delete network-card',
      'delete port-forwarding',
      'delete port',
    ];
    for (const c of [...commands, ...inner.map((i) => `modify vm1 ${i}`), 'network list', 'network reset', 'daemon status', 'daemon stop', 'daemon run']) {
      const r = await anka.run([...c.split(' '), '--help']);
      expect(r.status, c).toBe(0);
      expect(r.stdout, c).toMatch(/^Usage: anka/);
      expect(r.stdout, c).toMatch(/\nExamples:\n {2}\S*( |=)?.*anka /);
      expect(r.stderr, c).toBe('');
    }
    expect((await anka.run([])).stdout).toBe(await anka.ok('--help'));
  });

  test('B81: one line of JSON by -j, --machine-readable or the environment, anywhere in the line, and no other output', async () => {
    const shape = /^\{"status":"OK","body":.*,"message":"","code":0\}$/;
    for (const r of [
      await anka.run(['-j', 'list']),
      await anka.run(['list', '--machine-readable']),
      await anka.run(['list'], { env: { ANKA_MACHINE_READABLE: '1' } }),
    ]) {
      expect(r.stdout).toMatch(shape);
      expect(r.stderr).toBe('');
      expect(r.status).toBe(0);
    }
    expect((await anka.run(['-j', 'show', 'none'])).stdout).toBe(
      '{"status":"ERROR","body":{},"message":"none: not found","code":3,"exception_type":"VMNotFoundException"}',
    );
    expect((await anka.run(['-j', 'creat'])).status).toBe(2);
    expect(JSON.parse((await anka.run(['-j', 'creat'])).stdout)).toMatchObject({ status: 'ERROR', code: 2 });
  });

  test('B82, B83: bodies of show, create and clone; modify has an empty one', async () => {
    const vm = await anka.body<Record<string, unknown>>('show vm1');
    expect(vm).toMatchObject({
      name: 'vm1',
      cpu_cores: 2,
      ram: '128M',
      hard_drive: 1073741824,
      status: 'stopped',
      port_forwarding: [],
      network: { type: 'shared' },
    });
    expect(vm).not.toHaveProperty('ip');
    expect(vm).not.toHaveProperty('mac');
    const clone = await anka.body<{ uuid: string }>('clone vm1 vm2');
    expect(Object.keys(clone)).toEqual(['uuid']);
    expect(await anka.body('modify vm2 add port-forwarding -g 22 ssh')).toEqual({});
    expect(await anka.ok('show vm2 uuid')).toBe(`${clone.uuid}\n`);
    expect(await anka.ok(`show ${clone.uuid} name`)).toBe('vm2\n');
    expect(await anka.run(['show', 'vm2', 'ip']), 'the VM has no address').toEqual({ status: 6, stdout: '', stderr: 'anka: no IP address yet\n' });
    await anka.ok('delete --yes vm2');
  });

  test('B80: list draws its table as the seed page does', async () => {
    const uuid = (await anka.ok('show vm1 uuid')).trim();
    const lines = (await anka.ok('list')).split('\n');
    expect(lines[0]).toMatch(/^\+-+\+-+\+-+\+-+\+-+\+$/);
    expect(lines[1]).toMatch(/^\| name +\| uuid +\| creation_date +\| status +\| ip +\|$/);
    expect(lines[2]).toMatch(/^\+=+\+=+\+=+\+=+\+=+\+$/);
    expect(lines[3]).toContain(uuid);
  });

  test('B30, B31: INDEX before the options, after them, or omitted; the 3.x syntax', async () => {
    const type = async (): Promise<string> => (await anka.ok('show vm1 network type')).trim();
    for (const [line, now] of [
      ['modify vm1 set network-card 0 -t host', 'host'],
      ['modify vm1 set network-card -t shared 0', 'shared'],
      ['modify vm1 set network-card --type disconnected', 'disconnected'],
      ['modify vm1 network -t host', 'host'],
      ['modify vm1 network --mode shared', 'shared'],
    ] as const) {
      await anka.ok(line);
      expect(await type(), line).toBe(now);
    }
    await anka.ok('modify vm1 port ssh -g 22');
    await anka.ok('modify vm1 port web 80:127.0.0.1:18080');
    await anka.ok('modify vm1 port dns 53:15353 --protocol udp');
    await anka.ok('modify vm1 port alt -g 443 -p 18443 -l 10.9.0.2');
    expect(await anka.body('show vm1 port_forwarding')).toEqual([
      { guest_port: 22, host_port: 10000, protocol: 'tcp', name: 'ssh', host_ip: '0.0.0.0' },
      { guest_port: 80, host_port: 18080, protocol: 'tcp', name: 'web', host_ip: '127.0.0.1' },
      { guest_port: 53, host_port: 15353, protocol: 'udp', name: 'dns', host_ip: '0.0.0.0' },
      { guest_port: 443, host_port: 18443, protocol: 'tcp', name: 'alt', host_ip: '10.9.0.2' },
    ]);
    await anka.ok('modify vm1 port ssh --delete');
    await anka.ok('modify vm1 delete port web');
    await anka.ok('modify vm1 delete port-forwarding dns');
    await anka.ok('modify vm1 port alt -d');
    expect(await anka.body('show vm1 port_forwarding')).toEqual([]);
  });

  test('B60, B64: a rule listens on an IPv6 address; :: and 0.0.0.0 are two listeners', async () => {
    await anka.ok('modify vm1 port six 80:[::1]:8081');
    await anka.ok('modify vm1 add port-forwarding -g 81 -p 8081 four');
    const taken = await anka.run('modify vm1 add port-forwarding -g 82 -p 8081 -l :: all'.split(' '));
    expect(taken).toMatchObject({ status: 10, stderr: expect.stringContaining("tcp port 8081 is in use by rule 'six' of VM vm1") });
    await anka.ok('modify vm1 add port-forwarding -g 82 -p 8082 -l :: all');
    const addresses = (await anka.body<{ name: string; host_ip: string }[]>('show vm1 port_forwarding')).map((r) => `${r.name} ${r.host_ip}`);
    expect(addresses).toEqual(expect.arrayContaining(['six ::1', 'four 0.0.0.0', 'all ::']));
    for (const name of ['six', 'four', 'all']) await anka.ok(`modify vm1 delete port-forwarding ${name}`);
  });

  test('B43: a MAC address is accepted in every usual notation, and shown in lower case with colons', async () => {
    for (const mac of ['52:54:00:AB:CD:EF', '52-54-00-ab-cd-ef', '525400abcdef', '5254.00ab.cdef']) {
      await anka.ok(`modify vm1 set network-card -m ${mac}`);
      expect(await anka.ok('show vm1 network inside_mac')).toBe('52:54:00:ab:cd:ef\n');
    }
    await anka.ok('modify vm1 set network-card -n');
    expect(await anka.body('show vm1 network')).not.toHaveProperty('inside_mac');
  });

  test('B70, B71: settings are printed, stored, reset, and overridden for one command', async () => {
    expect(await anka.ok('config portfwd_base')).toBe('10000\n');
    await anka.ok('config portfwd_base 20000');
    expect(await anka.ok('config portfwd_base')).toBe('20000\n');
    expect(await anka.ok('config portfwd_base', { env: { ANKA_PORTFWD_BASE: '30000' } })).toBe('30000\n');
    await anka.ok('modify vm1 add port-forwarding -g 22 a', { env: { ANKA_PORTFWD_BASE: '30000' } });
    await anka.ok('modify vm1 add port-forwarding -g 23 b');
    expect(await anka.body('show vm1 port_forwarding')).toMatchObject([{ host_port: 30000 }, { host_port: 20000 }]);
    await anka.ok('config -r portfwd_base');
    expect(await anka.body('config')).toMatchObject({ portfwd_base: '10000', engine: 'auto', shared_subnet: '192.168.64.0/24' });
    expect(await anka.ok('config -l')).toBe(await anka.ok('config'));
    for (const r of ['a', 'b']) await anka.ok(`modify vm1 delete port ${r}`);
  });

  test('completion: bash completes commands, options, types, VMs', async () => {
    const script = join(w.dir, 'completion.bash');
    await w.host.ask(`ANKA_HOME=${anka.home} ${process.execPath} dist/cli/main.js completion bash >${script}`);
    const complete = async (...words: string[]): Promise<string[]> => {
      const line = words.map((x) => `'${x}'`).join(' ');
      const out = await w.host.ask(
        `cat >${w.dir}/c.sh <<'E'\nanka() { ANKA_HOME=${anka.home} ${process.execPath} ${process.cwd()}/dist/cli/main.js "$@"; }\nsource ${script}\nCOMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _anka; printf '%s\\n' "\${COMPREPLY[@]}"\nE\nbash ${w.dir}/c.sh`,
      );
      return (out ?? '').trim().split('\n');
    };
    expect(await complete('anka', 'cl')).toEqual(['clone']);
    expect(await complete('anka', 'create', '--d')).toEqual(['--disk-size']);
    expect(await complete('anka', 'show', 'vm')).toEqual(['vm1']);
    expect(await complete('anka', 'modify', 'vm1', 'se')).toEqual(['set']);
    expect(await complete('anka', 'modify', 'vm1', 'set', 'net')).toEqual(['network-card']);
    expect(await complete('anka', 'modify', 'vm1', 'set', 'network-card', '-t', 'h')).toEqual(['host']);
    expect(await complete('anka', 'config', 'sha')).toEqual(['shared_subnet']);
  });

  /** A directory with an `anka` program and the completion script of a shell. */
  const withCompletion = async (shell: string, file: string): Promise<string> => {
    const dir = join(w.dir, shell);
    mkdirSync(dir, { recursive: true });
    writeFileSync(join(dir, file), await anka.ok(`completion ${shell}`));
    writeFileSync(join(dir, 'anka'), `#!/bin/sh\nANKA_HOME=${anka.home} exec ${process.execPath} ${process.cwd()}/dist/cli/main.js "$@"\n`, { mode: 0o755 });
    return dir;
  };

  test.skipIf(!existsSync('/usr/bin/zsh'))('completion: zsh loads the script from fpath, at the first completion and later', async () => {
    const dir = await withCompletion('zsh', '_anka');
    // zpty types keys into an interactive zsh; running the line shows what completion made of it
    const keys: [typed: string, ran: string][] = [
      ['anka cl', 'clone'],
      ['anka create --d', 'create --disk-size'],
      ['anka show v', 'show vm1'],
      ['anka modify vm1 set network-card -t h', 'modify vm1 set network-card -t host'],
      ['anka config sha', 'config shared_subnet'],
    ];
    writeFileSync(
      join(dir, 'keys.zsh'),
      `zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PATH=${dir}:\\$PATH; fpath=(${dir} \\$fpath); autoload -U compinit; compinit -u -D; anka() { case \\$1 in -j) command anka \\$*;; *) print -r -- \\"<\\$*>\\";; esac }; print REA''DY"
zpty -r z out '*READY*'
${keys.map(([typed]) => `zpty -w -n z $'${typed}\\t\\r'; zpty -r z out '*<*>*'; print -r -- "$out"`).join('\n')}
zpty -d z
`,
    );
    const out = await w.host.ask(`timeout 300 zsh -f ${join(dir, 'keys.zsh')}`);
    expect([...(out ?? '').matchAll(/<([^<>]*)>/g)].map((m) => m[1]?.trim())).toEqual(keys.map(([, ran]) => ran));
  });

  test.skipIf(!existsSync('/usr/bin/fish'))('completion: fish', async () => {
    const dir = await withCompletion('fish', 'anka.fish');
    const complete = async (line: string): Promise<string[]> => {
      const out = await w.host.ask(`PATH=${dir}:$PATH HOME=${dir} fish --no-config -c "source ${dir}/anka.fish; complete -C '${line}'"`);
      return (out ?? 'failed')
        .trim()
        .split('\n')
        .map((l) => l.split('\t')[0] as string);
    };
    expect(await complete('anka cl')).toEqual(['clone']);
    expect(await complete('anka create --d')).toEqual(['--disk-size']);
    expect(await complete('anka show v')).toEqual(['vm1']);
    expect(await complete('anka modify vm1 se')).toEqual(['set']);
    expect(await complete('anka modify vm1 set network-card -t h')).toEqual(['host']);
    expect(await complete('anka config sha')).toEqual(['shared_subnet']);
    expect(await complete('anka capture --side o')).toEqual(['outside']);
  });

  test('B60: the OpenAPI document describes every path', async () => {
    const doc = JSON.parse(await get('/v1/openapi.json')) as { openapi: string; paths: Record<string, Record<string, { summary: string }>> };
    expect(doc.openapi).toBe('3.1.0');
    expect(Object.keys(doc.paths)).toEqual(expect.arrayContaining(['/v1/vms', '/v1/vms/{ref}', '/v1/vms/{ref}/port-forwarding', '/v1/events', '/metrics']));
    for (const methods of Object.values(doc.paths)) for (const m of Object.values(methods)) expect(m.summary).not.toBe('');
    expect(await get('/metrics')).toMatch(/^# TYPE anka_vms gauge\nanka_vms \d+$/m);
  });

  test('B92: only its owner may open the API’s socket', async () => {
    expect(w.host.run(`stat -c '%a %U' ${anka.home}/run/ankad.sock`).trim()).toBe('600 root');
    expect(w.host.attempt(`ss -Hltnp | grep -E 'ankad|daemon/main'`), 'the daemon listens on no TCP port').toBeNull();
  });

  test('events prints events as they occur; daemon status and daemon stop', async () => {
    const events = w.host.spawn([process.execPath, join(process.cwd(), 'dist/cli/main.js'), '-j', 'events'], anka.env);
    let seen = '';
    events.stdout?.on('data', (d: Buffer) => {
      seen += d.toString();
    });
    while (!seen.includes('vm.created')) {
      await anka.ok('clone vm1 vm3');
      await anka.ok('delete --yes vm3');
    }
    events.kill();
    expect(await anka.body('daemon status')).toMatchObject({ engine: 'kernel', vms: 1, running: 0 });
    expect(await anka.ok('daemon stop')).toBe('the daemon was stopped; VMs and networks keep running\n');
    expect((await anka.run(['daemon', 'status'])).stderr).toBe("anka: the daemon is not running; 'anka list' or any other command starts it\n");
    expect(await anka.ok('daemon stop')).toBe('the daemon is not running\n');
    expect(await anka.ok('show vm1 status')).toBe('stopped\n');
  });
});
