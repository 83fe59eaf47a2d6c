/**
 * A lab for the TCP path alone: a Linux kernel as the guest (a namespace whose tap shim.c connects to the path's stream
 * socket), a namespace as the host that runs the path, and servers.
 */
import { type ChildProcess, execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { joinTap } from './shim.ts';
import { Namespace, until } from './world.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const prefix = process.env['ANKA_TEST_WORLD'] ?? '';

/** Programs that run inside the namespaces, as text for `node -e`. */
export const SERVER = `
const net = require('net'), crypto = require('crypto');
// one byte says what to do: S<bytes> sink and answer with the hash; G<bytes>\\n give; E echo until the end; R reset at once; H say something after the client's end; W never read
net.createServer({ allowHalfOpen: true }, (s) => {
  s.on('error', () => {});
  let head = null, hash = crypto.createHash('sha256'), n = 0;
  s.on('data', (d) => {
    if (head === null) {
      head = String.fromCharCode(d[0]);
      if (head === 'R') return void s.resetAndDestroy();
      if (head === 'W') return void s.pause();
      if (head === 'G') {
        let left = Number(d.toString('latin1').slice(1).split('\\n')[0]), x = 1;
        const more = () => {
          while (left > 0) {
            const b = Buffer.alloc(Math.min(left, 65536));
            for (let i = 0; i + 4 <= b.length; i += 4) { x = (Math.imul(x, 1664525) + 1013904223) >>> 0; b.writeUInt32LE(x, i); }
            hash.update(b); left -= b.length;
            if (!s.write(b)) return void s.once('drain', more);
          }
          console.log('gave ' + hash.digest('hex')); s.end();
        };
        return more();
      }
      d = d.subarray(1);
    }
    if (head === 'E') s.write(d); else { hash.update(d); n += d.length; }
  });
  s.on('end', () => { if (head === 'S' || head === 'H') s.end(n + ' ' + hash.digest('hex') + '\\n'); else s.end(); });
}).listen(7000, '0.0.0.0', () => console.log('ready'));
`;

/**
 * Host sockets: the handles of node:net, or node:net itself as the fallback.
 */
export const SOCKETS = ['handles', 'plain'] as const;
export type Sockets = (typeof SOCKETS)[number];

export const UP = (bytes: number): string => `
const net = require('net'), crypto = require('crypto'); const hash = crypto.createHash('sha256'); let left = ${bytes};
const s = net.connect({ port: 7000, host: '192.168.64.1', allowHalfOpen: true }, () => { s.write('S');
  const more = () => { while (left > 0) { const b = crypto.randomBytes(Math.min(left, 100000)); hash.update(b); left -= b.length; if (!s.write(b)) return void s.once('drain', more); } s.end(); }; more(); });
let answer = ''; s.on('data', (d) => answer += d); s.on('end', () => { const ours = ${bytes} + ' ' + hash.digest('hex'); console.log(answer.trim() === ours ? 'same' : answer + ' is not ' + ours); });`;

export const DOWN = (bytes: number): string => `
const net = require('net'), crypto = require('crypto'); const hash = crypto.createHash('sha256'); let n = 0;
const s = net.connect({ port: 7000, host: '192.168.64.1' }, () => s.write('G${bytes}\\n')); s.on('data', (d) => { hash.update(d); n += d.length; });
s.on('end', () => console.log(n + ' ' + hash.digest('hex')));`;

export class Lab {
  readonly dir = mkdtempSync(join(tmpdir(), 'anka-tcp-'));
  readonly guest = new Namespace(`${prefix}tpguest`);
  readonly host = new Namespace(`${prefix}tphost`);
  readonly process: ChildProcess;
  output = '';
  served = '';

  readonly #socket = join(this.dir, 'nic.sock');
  readonly #damage: string[];
  #closed = false;

  constructor(mtu: number, damage: string[] = [], rules = '', sockets: Sockets = 'handles', settings: Record<string, string> = {}) {
    this.#damage = damage;
    const socket = this.#socket;
    this.process = this.host.spawn(
      [process.execPath, '--expose-gc', '--import', 'tsx', join(root, 'test/world/tcp-path-process.ts'), socket, String(mtu), rules, sockets],
      settings,
    );
    this.process.stdout?.on('data', (d) => {
      this.output += d;
    });
    this.process.once('exit', () => this.#onExit());
    this.guest.run(`ip tuntap add dev tap0 mode tap; ip link set tap0 address 52:54:00:77:00:0a mtu ${mtu} txqueuelen 20000 up`);
    this.guest.run('ip addr add 192.168.64.2/24 dev tap0; ip route add default via 192.168.64.1');
    const server = this.host.spawn([process.execPath, '-e', SERVER]);
    server.stdout?.on('data', (d) => {
      this.served += d;
    });
  }

  async ready(): Promise<void> {
    // BBR, the default of some hosts, may send a few kbit/s for minutes after heavy loss
    if (this.#damage.length > 0) this.guest.run('sysctl -qw net.ipv4.tcp_congestion_control=reno');
    await until('the path listens', () => existsSync(this.#socket));
    await joinTap(this.guest, 'tap0', 'dial', this.#socket, this.#damage);
    await until('the server listens', () => this.served.includes('ready'));
    await until(
      'the guest has a path',
      async () =>
        (await this.node(
          "const s=require('net').connect(7000,'192.168.64.1',()=>{s.write('S');s.end()});s.on('data',d=>process.stdout.write(d));s.on('error',()=>process.exit(1))",
        )) !== null,
    );
  }

  /** Runs a Node program in the guest; null when it fails. */
  node(program: string): Promise<string | null> {
    writeFileSync(join(this.dir, 'program.cjs'), program);
    return this.guest.ask(`${process.execPath} ${join(this.dir, 'program.cjs')}`);
  }

  /** Counters of the TCP path's process. */
  pid(): number {
    const pids = execFileSync('sh', ['-c', `ip netns pids ${this.host.name}`])
      .toString()
      .trim()
      .split('\n');
    const line = (pid: string): string => readFileSync(`/proc/${pid}/cmdline`, 'utf8');
    return Number(pids.find((p) => line(p).includes('tcp-path-process') && !line(p).startsWith('ip')));
  }

  async stats(): Promise<Record<string, number>> {
    const before = this.output.length;
    process.kill(this.pid(), 'SIGUSR2');
    await until('the counters', () => this.output.slice(before).includes('\n'));
    return JSON.parse(this.output.slice(before)) as Record<string, number>;
  }

  /**
   * Runs `work`, which must not wait for a TCP timer, and checks the counters of such waits. A busy machine may miss a
   * timer of 200 ms now and then, a fault in the path shows each time: the best of five runs counts. `few`: as many are
   * tolerated.
   */
  async withoutTimers(work: () => Promise<void>, timers: () => Promise<Record<string, number>>, few = 0): Promise<void> {
    const seen: string[] = [];
    while (seen.length < 5) {
      const before = await timers();
      await work();
      const ran = Object.entries(await timers()).map(([name, n]) => [name, n - (before[name] ?? 0)] as const);
      if (ran.reduce((all, [, n]) => all + n, 0) <= few) return;
      seen.push(ran.map(([name, n]) => `${name} ${n}`).join(' '));
    }
    expect.fail(`waited for timers each time: ${seen.join('; ')}`);
  }

  /** A counter of the guest's kernel (nstat). */
  count(name: string): number {
    return Number(this.guest.run(`nstat -asz ${name} | awk 'END{print $2}'`));
  }

  /** Programs that use the path may wait for it for ever: without it, they end, and their tests fail. */
  #onExit(): void {
    if (this.#closed) return;
    console.error('the process of the TCP path has exited');
    for (const n of [this.guest, this.host]) n.killAll();
  }

  close(): void {
    this.#closed = true;
    this.guest.close();
    this.host.close();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
