/**
 * The capture points of the kernel engine: a bridge, cards as veths, and address translation on one of them by netdev
 * hooks, which run where tc's do. And, with a real guest, the command: tshark reads what it writes.
 */

import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CaptureSide } from '../../src/engine/engine.ts';
import { ipv4Packet, nic, sendFrames } from '../contract/guest-tools.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const INSIDE = '525400aabbcc';
const OUTSIDE = '564545000001';
const OTHER = '564545000002';

const why = missing('root', 'netns');
describe.skipIf(why !== null)(`captures of the kernel engine${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let vm1: Namespace;
  let vm2: Namespace;
  const card = nic(1, 'shared', { insideMac: 0x525400aabbcc });

  beforeAll(() => {
    w = new World('at-');
    w.host.run('ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip addr add 192.168.64.1/24 dev br0; ip link set br0 up');
    vm1 = w.guest('g1', 'anka00000001', '52:54:00:aa:bb:cc');
    vm2 = w.guest('g2', 'anka00000002', '56:45:45:00:00:02');
    for (const dev of ['anka00000001', 'anka00000002']) w.host.run(`ip link set ${dev} master br0 up`);
    w.host.run(`nft -f - <<E
      table netdev translate {
        chain in { type filter hook ingress device "anka00000001" priority 0; ether saddr set 56:45:45:00:00:01; }
        chain out { type filter hook egress device "anka00000001" priority 0; ether daddr 56:45:45:00:00:01 ether daddr set 52:54:00:aa:bb:cc; }
      }
E`);
    vm1.run('ip addr add 192.168.64.2/24 dev eth0; ip neigh replace 192.168.64.3 lladdr 56:45:45:00:00:02 dev eth0');
    vm2.run('ip addr add 192.168.64.3/24 dev eth0; ip neigh replace 192.168.64.2 lladdr 56:45:45:00:00:01 dev eth0');
  });
  afterAll(() => w?.close());

  /** Frames that match the filter, captured during `work`, as `>` or `<` and the two addresses. */
  async function captured(side: CaptureSide, filter: string, work: () => void, want: number): Promise<string[]> {
    const child = w.host.spawn([
      process.execPath,
      '--import',
      'tsx',
      fileURLToPath(new URL('../world/capture-process.ts', import.meta.url)),
      JSON.stringify(card),
      side,
      filter,
    ]);
    const seen: string[] = [];
    let ready = false;
    let counts: { received: number; dropped: number } | null = null;
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const m = JSON.parse(line) as { ready?: string; outbound: boolean; hex: string; counts?: { received: number; dropped: number } };
      if (m.ready) ready = true;
      else if (m.counts) counts = m.counts;
      else seen.push(`${m.outbound ? '>' : '<'} ${m.hex.slice(12, 24)} to ${m.hex.slice(0, 12)}`);
    });
    await until('the capture started', () => ready);
    work();
    await until('the frames arrived', () => seen.length >= want);
    child.stdin?.end();
    expect(await until('the capture ended', () => counts)).toMatchObject({ dropped: 0 });
    return seen;
  }

  test('B41, B93: inside shows the guest’s address, outside the address that the network sees', async () => {
    const ping = () => void vm1.run('ping -c1 -q 192.168.64.3');
    expect(await captured('inside', 'icmp', ping, 2)).toEqual([`> ${INSIDE} to ${OTHER}`, `< ${OTHER} to ${INSIDE}`]);
    expect(await captured('outside', 'icmp', ping, 2)).toEqual([`> ${OUTSIDE} to ${OTHER}`, `< ${OTHER} to ${OUTSIDE}`]);
  });

  test('B93: outside includes the host’s own frames to the card, and no frame of other cards', async () => {
    w.host.run('ip neigh replace 192.168.64.2 lladdr 56:45:45:00:00:01 dev br0');
    vm1.run(`ip neigh replace 192.168.64.1 lladdr ${w.host.run('cat /sys/class/net/br0/address').trim()} dev eth0`);
    const seen = await captured(
      'outside',
      'icmp[icmptype] == icmp-echo',
      () => {
        vm2.run('ping -c3 -i0.1 -q 192.168.64.1');
        w.host.run('ping -c1 -q 192.168.64.2');
      },
      1,
    );
    expect(seen).toHaveLength(1);
    expect(seen[0]).toMatch(new RegExp(`^< [0-9a-f]{12} to ${OUTSIDE}$`));
  });

  test('B93: the VLAN tag is in the frame', async () => {
    const frame = `${OTHER}${INSIDE}810000070800${ipv4Packet('192.168.64.2', '192.168.64.3', 1, '0800f7ff00000000')}`;
    const child = w.host.spawn([
      process.execPath,
      '--import',
      'tsx',
      fileURLToPath(new URL('../world/capture-process.ts', import.meta.url)),
      JSON.stringify(card),
      'inside',
      'vlan 7 and icmp',
    ]);
    let text = '';
    child.stdout?.on('data', (d: Buffer) => {
      text += d.toString();
    });
    await until('the capture started', () => text.includes('ready'));
    await sendFrames(vm1, [frame]);
    await until('the frame arrived', () => text.includes(frame));
    child.stdin?.end();
    await until('the capture ended', () => text.includes('counts'));
  });
});

const whyGuest = missing('root', 'netns', 'tun', 'qemu');
describe.skipIf(whyGuest !== null)(`anka capture${whyGuest ? ` (${whyGuest})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  let ip = '';

  beforeAll(async () => {
    w = new World('at-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 256M -c 1 vm1');
    await anka.ok('start vm1');
    ip = await anka.address('vm1');
  });
  afterAll(async () => {
    if (!w) return;
    await anka.run(['delete', '--yes', '-a']);
    await anka.run(['network', 'reset']);
    await anka.run(['daemon', 'stop']);
    w.close();
  });

  /** `anka capture …` in a shell that interrupts it with the signal of Ctrl-C on request. */
  function start(line: string) {
    const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
    const child = w.host.spawn(['sh', '-c', `exec ${process.execPath} ${main} ${line}`], anka.env);
    return { child, exited: new Promise<number | null>((resolve) => child.once('exit', resolve)) };
  }

  const fields = (file: string): string[][] =>
    w.host
      .run(`tshark -n -r ${file} -T fields -e frame.protocols -e ip.src -e ip.dst -e frame.packet_flags_direction -e frame.interface_name 2>/dev/null`)
      .trim()
      .split('\n')
      .map((l) => l.split('\t'));

  test('B93: into a file, with a filter; Ctrl-C ends it with complete blocks and the statistics', async () => {
    const file = join(w.dir, 'a.pcapng');
    // echoes only: the guest also rejects, by ICMP, the datagram that the engine sends to find the owner of an address
    const { child, exited } = start(`-j capture vm1 -w ${file} 'icmp[0] == 8 or icmp[0] == 0'`);
    let out = '';
    child.stdout?.on('data', (d: Buffer) => {
      out += d.toString();
    });
    // the file has its header once the capture has started
    await until('the capture started', () => w.host.attempt(`test -s ${file}`) !== null);
    w.host.run(`ping -c3 -i0.2 -q ${ip}`);
    await until('six frames are in the file', () => fields(file).length === 6);
    child.kill('SIGINT');
    expect(await exited).toBe(0);
    expect(JSON.parse(out)).toEqual({ status: 'OK', body: { file, frames: 6, dropped: 0 }, message: '', code: 0 });
    const frames = fields(file);
    expect(frames).toHaveLength(6);
    // a slow guest may answer the first request after the second was sent
    const [requests, replies] = [frames.filter((r) => r[2] === ip), frames.filter((r) => r[1] === ip)];
    expect(frames[0]).toEqual(['eth:ethertype:ip:icmp:data', '192.168.64.1', ip, '0x00000001', 'vm1']);
    expect(requests.map((r) => r[3])).toEqual(['0x00000001', '0x00000001', '0x00000001']);
    expect(replies.map((r) => r.slice(1, 4))).toEqual(Array(3).fill([ip, '192.168.64.1', '0x00000002']));
    // capinfos reads the whole file, and complains about a truncated block
    expect(w.host.run(`capinfos -c ${file} 2>&1`)).toMatch(/Number of packets:\s+6/);
    const last = w.host.run(`tail -c 100 ${file} | od -An -tx1 -v | tr -d ' \\n'`);
    expect(last, 'the last block is the statistics: six frames, none dropped').toMatch(/04000800060000000000000005000800000000000000000000000000[0-9a-f]{8}$/);
  });

  test('B93: live into a pipe, without a filter', async () => {
    const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
    const child = w.host.spawn(
      ['sh', '-c', `${process.execPath} ${main} capture vm1 | tshark -n -l -i - -c 100 -Y icmp -T fields -e ip.src 2>/dev/null`],
      anka.env,
    );
    const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
    let out = '';
    child.stdout?.on('data', (d: Buffer) => {
      out += d.toString();
    });
    await until('frames arrive live, before the reader has enough', async () => {
      await w.host.ask(`ping -c1 -W1 -q ${ip}; sleep 0.3`);
      return out.includes('192.168.64.1');
    });
    expect(child.exitCode).toBeNull();
    const more = w.host.spawn(['ping', '-i', '0.01', '-q', ip]);
    expect(await exited, 'the capture ends with its reader').toBe(0);
    more.kill();
  });

  test('B84: errors name the remedy', async () => {
    expect(await anka.run(['capture', 'nobody'])).toMatchObject({ status: 3, stderr: 'anka: nobody: not found\n' });
    const bad = await anka.run(['capture', 'vm1', '-w', join(w.dir, 'b'), 'no', 'such', 'filter']);
    expect(bad.status).toBe(7);
    expect(bad.stderr).toMatch(/^anka: the filter 'no such filter' is invalid: .*\n$/);
    expect((await anka.run(['capture', 'vm1', '--side', 'top'])).status).toBe(2);
    const tty = await anka.ns.ask(
      `ANKA_HOME=${anka.home} script -qec '${process.execPath} ${fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))} capture vm1; echo status $?' /dev/null`,
    );
    expect(tty).toMatch(/Cannot write a capture to a terminal/);
    expect(tty).toMatch(/status 2/);
  });

  test('B93: a full disk is reported, and ends the capture', async () => {
    const r = await anka.run(['capture', 'vm1', '-w', '/dev/full']);
    expect(r.status).not.toBe(0);
    expect(r.stderr).toMatch(/^(capturing .*\n)?anka: cannot write \/dev\/full: ENOSPC: no space left on device.*\n$/);
  });

  test('B93: the capture ends when the VM stops', async () => {
    const file = join(w.dir, 'c.pcapng');
    const { child, exited } = start(`capture vm1 -w ${file}`);
    let output = '';
    child.stdout?.on('data', (d: Buffer) => {
      output += d.toString();
    });
    await until('the capture started', () => w.host.attempt(`test -s ${file}`) !== null);
    await anka.ok('stop -f vm1');
    expect(await exited).toBe(0);
    expect(output).toMatch(/^vm1 was stopped, or its network card unplugged: \d+ frames captured, 0 dropped\n$/);
    expect(w.host.run(`capinfos -c ${file} 2>&1`)).toMatch(/Number of packets/);
    expect((await anka.run(['capture', 'vm1'])).stderr).toBe("anka: vm1 is stopped; run 'anka start vm1' first\n");
  });
});
