/**
 * The TCP path of the user engine with 200 ms of round-trip time outside. 200 Mbit/s need 5 MB in flight, which is
 * asserted at any machine speed; the rate of each second is printed (ANKA_LONG_PATH: seconds). Also the memory that the
 * host's kernel holds for guests that do not read.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { compiled } from '../world/compile.ts';
import { Lab, SERVER, SOCKETS } from '../world/tcp-lab.ts';
import { missing, Namespace, until } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'cc');
const prefix = process.env['ANKA_TEST_WORLD'] ?? '';
const FAR = '10.77.0.2';
/** 200 Mbit/s times 200 ms. */
const WANTED = 5_000_000;

/**
 * A program that connects, sends one letter, then sends or reads as fast as it can, and prints its rate each second.
 */
const CLIENT = (port: number, address: string, what: 'send' | 'read'): string => `
  const s = require('net').connect(${port}, '${address}', () => { let last = 0;
    setInterval(() => { const n = ${what === 'send' ? 's.bytesWritten - s.writableLength' : 's.bytesRead'}; console.log((n - last) * 8e-6 | 0); last = n; }, 1000);
    if ('${what}' === 'read') { s.write('G1e12\\n'); s.on('data', () => {}); return; }
    s.write('S'); const b = Buffer.alloc(1 << 20); const more = () => { while (s.write(b)); s.once('drain', more); }; more(); });`;

describe.skipIf(why !== null)(`a long path outside, with a Linux kernel as the guest${why ? ` (skipped: ${why})` : ''}`, () => {
  let lab: Lab | null = null;
  let far: Namespace | null = null;
  afterEach(() => {
    lab?.close();
    far?.close();
    lab = far = null;
  });

  /**
   * Connects the host to another machine with this one-way delay; the buffers of both are large enough.
   */
  const outside = async (delayMs: number): Promise<Namespace> => {
    const { host } = lab!;
    const other = new Namespace(`${prefix}lpfar`);
    far = other;
    const cable = host.spawn([compiled(new URL('../world/delay.c', import.meta.url)), 'f0', other.name, 'f1', String(delayMs)]);
    await new Promise((ready) => cable.stdout?.once('data', ready));
    host.run('ip addr add 10.77.0.1/24 dev f0; ip link set f0 txqueuelen 20000 up');
    other.run(`ip addr add ${FAR}/24 dev f1; ip link set f1 txqueuelen 20000 up`);
    for (const ns of [host, other]) ns.run('sysctl -qw net.ipv4.tcp_wmem="4096 16384 33554432" net.ipv4.tcp_rmem="4096 131072 33554432"');
    other.spawn([process.execPath, '-e', SERVER]);
    await until('the far machine is reached', () => host.pings(FAR));
    await until('it listens', () => other.attempt('ss -Htln sport = :7000') !== '');
    return other;
  };

  test.each([
    ['download', 'read', false],
    ['upload', 'send', false],
    ['upload to a forwarded port', 'send', true],
    ['download from a forwarded port', 'read', true],
  ] as const)('200 ms of round-trip time: 5 MB in flight in a %s', async (name, what, forwarded) => {
    lab = new Lab(1500, [], '15000:7000');
    await lab.ready();
    const outer = await outside(100);
    if (forwarded) lab.guest.spawn([process.execPath, '-e', SERVER]);
    const client = forwarded ? outer : lab.guest;
    const program = client.spawn([process.execPath, '-e', forwarded ? CLIENT(15_000, '10.77.0.1', what) : CLIENT(7000, FAR, what)]);
    const speeds: number[] = [];
    program.stdout?.on('data', (d: Buffer) => speeds.push(...d.toString().trim().split('\n').map(Number)));
    // the sender over the long path
    const sender = (what === 'send') === forwarded ? outer : lab.host;
    let most = 0;
    await until('5 MB are in flight', () => {
      for (const [, queued, info] of sender
        .run(`ss -Htinm state established '( sport = :7000 or sport = :15000 or dport = :7000 or dport = :15000 )' | paste - -`)
        .matchAll(/^\d+ +(\d+) .*\t(.*)$/gm)) {
        const unsent = Number(/notsent:(\d+)/.exec(info!)?.[1] ?? 0);
        most = Math.max(most, Number(queued) - unsent);
      }
      return most >= WANTED;
    });
    if (process.env['ANKA_LONG_PATH']) await until('some seconds more', () => speeds.length >= Number(process.env['ANKA_LONG_PATH']));
    console.info(`${name} over 200 ms: ${(most / 1e6).toFixed(1)} MB in flight; Mbit/s each second ${speeds.join(' ')}`);
    expect(most).toBeGreaterThanOrEqual(WANTED);
  });

  test.each(SOCKETS)(
    '60 connections of a guest that reads 2 MB of each and then stops: the host’s kernel keeps a bounded part of what goes on coming, by %s',
    async (sockets) => {
      lab = new Lab(1500, [], '', sockets);
      lab.host.run('sysctl -qw net.ipv4.tcp_rmem="4096 131072 33554432"');
      await lab.ready();
      const program = lab.guest.spawn([
        process.execPath,
        '-e',
        `setInterval(() => {}, 1e6); let stopped = 0; for (let i = 0; i < 60; i++) { let n = 0; const s = require('net').connect(7000, '192.168.64.1', () => s.write('G1e9\\n'));
        s.on('data', (d) => { n += d.length; if (n > 2e6 && !s.isPaused()) { s.pause(); if (++stopped === 60) console.log('stopped'); } }); }`,
      ]);
      let said = '';
      program.stdout?.on('data', (d: Buffer) => {
        said += d.toString();
      });
      await until('all have stopped', () => said !== '');
      const kept = (): number[] => [...lab!.host.run('ss -Htmn state established dport = :7000').matchAll(/skmem:\(r(\d+)/g)].map((m) => Number(m[1]));
      // until no more data arrives
      let before = -1;
      let now = 0;
      await until('they are full', async () => {
        before = now;
        await sleep(1000);
        now = kept().reduce((a, b) => a + b, 0);
        return now === before;
      });
      console.info(
        `kept for 60 connections that are not read, by ${sockets}: ${(now / 1e6).toFixed(0)} MB, the largest ${(Math.max(...kept()) / 1e6).toFixed(1)} MB`,
      );
      expect(kept()).toHaveLength(60);
      // their shared limit, and one step of growth between two checks
      expect(now).toBeLessThan((64 << 20) + 2 * 33_554_432);
    },
  );
});
