/**
 * Invalid command lines and API requests with the exact answer. `bad-input.txt` is the transcript: `$ anka …` or
 * `> METHOD PATH BODY` lines, each followed by its status and output. `ANKA_UPDATE=1` rewrites the file; read it before
 * you commit it.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, World } from '../world/world.ts';

const FILE = fileURLToPath(new URL('bad-input.txt', import.meta.url));
const why = missing('root', 'netns', 'tun', 'qemu');

/** The transcript's cases: the line and the answer to it. */
function parse(text: string): { line: string; answer: string }[] {
  const cases: { line: string; answer: string }[] = [];
  for (const line of text.split('\n')) {
    if (line.startsWith('#') || (line === '' && cases.length === 0)) continue;
    if (/^[$>] /.test(line)) cases.push({ line, answer: '' });
    else (cases.at(-1) as { answer: string }).answer += `${line}\n`;
  }
  return cases.map((c) => ({ ...c, answer: c.answer.trimEnd() }));
}

/** The words of a line; 'single quotes' protect blanks. */
function words(line: string): string[] {
  return [...line.matchAll(/'([^']*)'|(\S+)/g)].map((m) => m[1] ?? (m[2] as string));
}

const cases = parse(readFileSync(FILE, 'utf8'));

describe.skipIf(why !== null)(`invalid input${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  const written: string[] = [];

  /** Replaces what differs between two runs by a placeholder. */
  const normalized = (text: string): string =>
    text
      .replaceAll(w.dir, '<DIR>')
      .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, '<UUID>')
      .replace(/pid \d+/g, 'pid <PID>')
      .trimEnd();

  /** Sends a request to the daemon's socket unchanged; the body need not be JSON. */
  const api = (method: string, path: string, body: string, headers: Record<string, string>): Promise<string> =>
    new Promise((resolve, reject) => {
      const r = request({ socketPath: join(anka.home, 'run/ankad.sock'), method, path, headers: { host: 'ankad', ...headers } }, (response) => {
        let text = '';
        response.on('data', (d: Buffer) => {
          text += d.toString();
        });
        response.on('end', () => resolve(`${response.statusCode} ${text}`));
      });
      r.on('error', reject);
      r.end(body);
    });

  beforeAll(async () => {
    w = new World('tb-');
    anka = new Anka(w, tinyGuest());
    const file = (name: string, text: string): void => writeFileSync(join(w.dir, name), text);
    file('text.qcow2', 'this is no disk image\n'.repeat(100));
    file('empty.img', '');
    mkdirSync(join(w.dir, 'folder'));
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', join(w.dir, 'secret.img'), '64M']);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', join(w.dir, 'secret.img'), join(w.dir, 'backed.qcow2')]);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', join(w.dir, 'cut.qcow2'), '64M']);
    writeFileSync(join(w.dir, 'cut.qcow2'), readFileSync(join(w.dir, 'cut.qcow2')).subarray(0, 60));
    w.host.run(
      'ip link add dum0 type veth peer name dum1; ip tuntap add vpn0 mode tun; ip addr add 172.31.0.1/24 dev dum0; ip link set dum0 up; ip link set dum1 up',
    );
    const squatter = w.host.spawn([process.execPath, '-e', "require('net').createServer().listen(8099, () => console.log('ready'))"]);
    await new Promise((resolve) => squatter.stdout?.once('data', resolve));
    for (const line of [
      'create -m 128M -d 1G vm1',
      'create -m 128M -d 1G vm2',
      'modify vm1 add port-forwarding -g 80 -p 8088 web',
      'modify vm1 set network-card --ip 192.168.64.50',
    ])
      await anka.ok(line);
  });

  afterAll(async () => {
    if (!w) return;
    if (process.env['ANKA_UPDATE'] && written.length === cases.length) writeFileSync(FILE, `${HEAD}${written.join('\n\n')}\n`);
    await anka.end();
    w.close();
  });

  for (const [i, c] of cases.entries()) {
    test(`B84: ${i + 1}. ${c.line}`, async () => {
      const line = c.line.slice(2).replaceAll('<DIR>', w.dir);
      let answer: string;
      if (c.line.startsWith('$')) {
        const [first, ...rest] = words(line);
        const env: Record<string, string> = {};
        let name = first as string;
        while (/^[A-Z_]+=/.test(name)) {
          const [k, ...v] = name.split('=');
          env[k as string] = v.join('=');
          name = rest.shift() as string;
        }
        expect(name).toBe('anka');
        const r = await anka.run(rest, { env });
        answer = normalized(`status ${r.status}\n${r.stdout}${r.stderr}`);
      } else {
        const [method, path, ...rest] = line.split(' ');
        const headers: Record<string, string> = { 'content-type': 'application/json' };
        while (/^[A-Za-z-]+:[^{]*$/.test(rest[0] ?? '')) {
          const [k, v] = (rest.shift() as string).split(':');
          headers[(k as string).toLowerCase()] = v as string;
        }
        answer = normalized(await api(method as string, path as string, rest.join(' ').replace('<MEGABYTES>', 'x'.repeat(3 << 20)), headers));
      }
      written.push(`${c.line}\n${answer}`);
      if (!process.env['ANKA_UPDATE']) expect(answer).toBe(c.answer);
    });
  }

  test('none of them changed anything', async () => {
    expect((await anka.body<{ name: string; status: string }[]>('list')).map((v) => `${v.name} ${v.status}`)).toEqual(['vm1 stopped', 'vm2 stopped']);
    expect(await anka.body('show vm1 port_forwarding')).toMatchObject([{ name: 'web', host_port: 8088 }]);
    expect(cases.length).toBeGreaterThanOrEqual(60);
  });
});

const HEAD = `# Invalid command lines ($) and API requests (>), and the answer to each. VMs vm1 (rule web on port 8088, reserved 192.168.64.50) and vm2 exist, stopped;
# another program holds port 8099. Read by bad-input.test.ts.

`;
