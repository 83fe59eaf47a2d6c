/**
 * B90: another program changes something, or a step fails once, between a check of the engine and its change, or
 * between a change and the next check: the engine takes nothing for done that is not.
 *
 * Theory of operation: a program of the test comes before the real one in the engine's PATH, or a function before the
 * real one (faults.mjs), and does the damage at that moment, as many times as a file says.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, greet, guest, nic, rule, serve, state } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun');
const FAULTS = new URL('../world/faults.mjs', import.meta.url).href;

describe.skipIf(why !== null)(`changes by others during a step${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm: Namespace;
  let programs: string;

  beforeEach(() => {
    w = new World('wc-');
    vm = guest(w, 1);
    programs = join(w.dir, 'programs');
    mkdirSync(programs);
  });
  afterEach(async () => {
    await e.reset();
    expect(
      w.host
        .run('ip -o link; nft list ruleset')
        .split('\n')
        .filter((l) => l.includes('anka') && !l.includes('anka00000001')),
      'nothing is left after reset',
    ).toEqual([]);
    w.close();
  });

  /**
   * Shadows a program: `times` times, where the arguments match a shell pattern, it runs `what` instead; `$real` is the
   * program.
   */
  function shadow(program: string, pattern: string, times: number, what: string): { left(): number } {
    const file = join(programs, `${program}.times`);
    writeFileSync(file, `${times}\n`);
    const real = w.host.run(`command -v ${program}`).trim();
    const script = ['#!/bin/sh', `real=${real}`, `n=$(cat ${file})`];
    script.push(`case "$*" in ${pattern}) [ $n -gt 0 ] && { echo $((n - 1)) >${file}.$$; mv ${file}.$$ ${file}; ${what}; };; esac`, 'exec $real "$@"');
    writeFileSync(join(programs, program), script.join('\n'), { mode: 0o755 });
    return { left: () => Number(readFileSync(file, 'utf8')) };
  }
  /**
   * Shadows a function of faults.mjs: `times` times, where its first argument begins so, a shell runs `what` before it;
   * if that fails, the function throws instead.
   */
  function shadowFunction(name: string, argument: string, times: number, what: string): { left(): number } {
    const file = join(programs, `${name}.json`);
    writeFileSync(file, JSON.stringify({ argument, times, what }));
    return { left: () => JSON.parse(readFileSync(file, 'utf8')).times };
  }
  const start = (): void => {
    e = new RemoteEngine(w, 'kernel', 'usual', programs, { NODE_OPTIONS: `--import ${FAULTS}`, ANKA_TEST_FAULTS: programs });
  };
  const bridged = (rest: object = {}) => state(nic(1, 'bridge', { bridge: 'en0', ...rest }));
  const healthy = () => until('all is healthy', async () => (await e.observe()).problems.length === 0 && (await e.observe()).nics.every((n) => n.healthy));

  test('some of our rules are deleted just after they were written, before they are read back', async () => {
    const nft = shadow('nft', "'-f '*", 3, '$real "$@"; $real flush chain bridge anka guard; exit 0');
    start();
    await e.apply(state(nic(1)));
    await until('the damage was done, and is repaired', () => nft.left() === 0 && w.host.run('nft list chain bridge anka guard').includes('vmap'));
    expect(await dhcp(w, vm)).not.toBeNull();
  });

  test('ending the flows fails once', async () => {
    const close = shadowFunction('closeSockets', '', 1, 'exit 1');
    start();
    await serve(vm, 8080, 'vm1');
    expect(await e.apply(state(nic(1, 'shared', { rules: [rule(10001, 8080)] })))).toEqual([]);
    const { ip } = (await dhcp(w, vm)) ?? { ip: '' };
    await until('forwarding', async () => (await greet(w.outside, 'tcp', '10.9.0.2', 10001)) === `vm1 sees 10.9.0.1`);
    const program = `const s = require('net').connect(8080, '${ip}'); s.on('data', () => console.log('open')); s.on('error', (e) => { console.log(e.code); process.exit(); });`;
    const flow = w.host.spawn([process.execPath, '-e', program]);
    let output = '';
    flow.stdout?.on('data', (d: Buffer) => {
      output += d.toString();
    });
    await until('the host has a flow to the guest', () => output.includes('open'));
    await e.apply(state(nic(1, 'disconnected')));
    await until('the flow is closed', () => output.includes('ECONN'));
    expect(close.left()).toBe(0);
  });

  test('B91: attaching the check of neighbour discovery fails once', async () => {
    const attach = shadowFunction('replaceBpfFilter', 'anka00000001', 1, 'exit 1');
    start();
    await e.apply(state(nic(1)));
    await until('it is attached', () => w.host.run('tc filter show dev anka00000001 ingress').includes('anka-mac-'));
    expect(attach.left()).toBe(0);
  });

  test('the segment’s port is removed just as its program is attached: that does not count as missing eBPF', async () => {
    const attach = shadowFunction('replaceBpfFilter', 'anka-pt', 1, 'ip link del "$1"');
    start();
    await e.apply(bridged());
    const filters = 'for d in en0 $(ip -o link | grep -o "anka-pt[0-9a-f]*" | head -1); do tc filter show dev $d ingress; done';
    await until('bridged by eBPF', () => w.host.run(filters).includes('[tc/nic_in]'));
    await healthy();
    expect((await e.observe()).nics[0]?.limit).toBeUndefined();
    expect(attach.left()).toBe(0);
  });

  test('B16: a card whose VLAN is unknown is not attached, as nothing may leave untagged', async () => {
    const attach = shadowFunction('replaceBpfFilter', 'anka00000001', 1, 'ip link set "$1" down; ip link set "$1" name away; exit 1');
    start();
    const problems = await e.apply(bridged({ vlan: 42, insideMac: 0x525400000001 }));
    expect(problems.map((p) => p.message)).toContainEqual(expect.stringMatching(/its VLAN cannot be checked, so it is not attached/));
    expect(w.host.run('ip -o link show dev away')).not.toContain('master');
    expect(attach.left()).toBe(0);
    await until('it is attached', () => /anka00000001: .* master /.test(w.host.run('ip -o link')));
    expect(w.host.run('tc filter show dev anka00000001 ingress')).toContain('anka-vlan-42-');
  });

  test('promiscuous mode of the interface is turned off by another program', async () => {
    shadowFunction('addFilterAddress', 'en0', 1_000_000, 'exit 1');
    start();
    expect(await e.apply(bridged())).toEqual([]);
    const promiscuous = () => w.host.run('ip -o link show dev en0').includes('PROMISC');
    expect(promiscuous()).toBe(true);
    w.host.run('ip link set en0 promisc off');
    await until('it is promiscuous again', promiscuous);
    await e.reset();
    expect(promiscuous()).toBe(false);
  });

  test('of a segment, a crash left only the bridge, as it was created', async () => {
    start();
    expect(await e.apply(bridged())).toEqual([]);
    const name = /(anka-br\w+)/.exec(w.host.run('ip -o link show type bridge'))?.[1] as string;
    await e.reset();
    w.host.run(`ip link add ${name} group 24942 type bridge`);
    expect(await e.apply(bridged())).toEqual([]);
    const made = w.host.run(`ip -d link show dev ${name}`);
    expect(made).toContain('NOARP');
    expect(made).toContain('alias anka:v1:uplink=en0');
    expect(w.host.run(`cat /proc/sys/net/ipv6/conf/${name}/disable_ipv6`)).toBe('1\n');
  });
});
