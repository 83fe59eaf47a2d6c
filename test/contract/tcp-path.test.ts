/**
 * The TCP path of the user engine against real TCPs: a Linux kernel as the guest (a namespace whose tap
 * test/world/shim.c connects to the path's stream socket; it can lose, duplicate and reorder frames), Linux and Node as
 * the outside. Needs root for the namespace; the path itself runs without privileges.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { DOWN, Lab, SERVER, SOCKETS, UP } from '../world/tcp-lab.ts';
import { missing, Namespace, until } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'cc');
const prefix = process.env['ANKA_TEST_WORLD'] ?? '';

/** Connections during which memory must stay flat; a million takes about four minutes. */
const CONNECTIONS = Number(process.env['ANKA_SOAK_CONNECTIONS'] ?? 10_000);

/**
 * Sends 10,000 raw SYNs from the guest to addresses where nobody answers. Arguments: first address, step, number of
 * addresses.
 */
const SYNS = `
import socket, struct, sys, time
first, step, count = struct.unpack('>I', socket.inet_aton(sys.argv[1]))[0], int(sys.argv[2]), int(sys.argv[3])
def total(b):
    t = sum(struct.unpack('>%dH' % (len(b) // 2), b))
    while t >> 16: t = (t & 0xffff) + (t >> 16)
    return struct.pack('>H', ~t & 0xffff)
s = socket.socket(17, 3); s.bind(('tap0', 0)); me = socket.inet_aton('192.168.64.2')
for i in range(10000):
    to = struct.pack('>I', first + i % count * step)
    ip = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 40, i, 0x4000, 64, 6, 0, me, to)
    tcp = struct.pack('>HHIIBBHHH', 1024 + i, 80, i * 1000, 0, 0x50, 2, 64240, 0, 0)
    f = bytes.fromhex('02000000640152540077000a0800') + ip[:10] + total(ip) + ip[12:] + tcp[:16] + total(me + to + struct.pack('>HH', 6, 20) + tcp) + tcp[18:]
    while True:
        try: s.send(f); break
        except OSError: time.sleep(0.001)
print('sent')
`;

/**
 * Connects repeatedly for two seconds, to one address or to a new one each time; prints the number of connections, of
 * failures, and the slowest in ms.
 */
const KNOCK = (fresh: boolean): string => `
const net = require('net'); let n = 0, live = 0, bad = 0, slowest = 0; const begin = performance.now();
const go = () => { if (performance.now() - begin > 2000) return void (live === 0 && console.log(n, bad, Math.round(slowest)));
  const at = performance.now(), address = ${fresh} ? '198.18.' + (n >> 3 & 255) + '.' + (n & 7) : '192.168.64.1'; n++; live++;
  const s = net.connect(7000, address, () => { slowest = Math.max(slowest, performance.now() - at); s.resetAndDestroy(); });
  s.on('error', () => bad++); s.on('close', () => { live--; if (performance.now() - begin > 2000) go(); }); setTimeout(go, 2); };
go();`;

describe.skipIf(why !== null)(`the TCP path with a Linux kernel as the guest${why ? ` (skipped: ${why})` : ''}`, () => {
  let lab: Lab | null = null;
  afterEach(() => {
    lab?.close();
    lab = null;
  });

  const down = async (bytes: number): Promise<void> => {
    const before = lab!.served.length;
    const got = await lab!.node(DOWN(bytes));
    await until('the server has given all', () => lab!.served.slice(before).includes('gave'));
    const hash = /gave (\S+)/.exec(lab!.served.slice(before))![1];
    expect(got?.trim()).toBe(`${bytes} ${hash}`);
  };

  test.each([1500, 9000, 65_520])('B12, B67: 100 MB each way at MTU %i, byte for byte', async (mtu) => {
    lab = new Lab(mtu);
    await lab.ready();
    expect(await lab.node(UP(100_000_000))).toBe('same\n');
    await down(100_000_000);
    const stats = await lab.stats();
    expect(stats).toMatchObject({ malformed: 0, badChecksum: 0, queued: 0 });
  });

  test('at MTU 65520, answers of all sizes around a segment never wait for a timer, with large and small windows', async () => {
    lab = new Lab(65_520, [], '15000:7100');
    await lab.ready();
    lab.guest.spawn([process.execPath, '-e', SERVER.replace('7000', '7100')]);
    const ask = (port: number, address: string): string => `
      const net = require('net'); const sizes = [60000, 65000, 65479, 65480, 65481, 66000, 100000, 130960, 130961, 200000, 500000, 1000000]; let i = 0;
      const next = () => { if (i === sizes.length * 5) return void console.log('all'); const size = sizes[i++ % sizes.length]; let n = 0;
        const s = net.connect(${port}, '${address}', () => s.write('G' + size + '\\n')); s.on('data', (d) => n += d.length); s.on('error', (e) => console.log(e.code)); s.on('close', () => n === size ? next() : console.log(n, size)); };
      next();`;
    await until(
      'the guest answers',
      async () =>
        (await lab!.host.ask(
          `${process.execPath} -e "require('net').connect(15000,'127.0.0.1',function(){this.end('S')}).on('error',()=>process.exit(1))"`,
        )) !== null,
    );
    for (const memory of ['4096 131072 6291456', '4096 65536 65536', '4096 16384 87380']) {
      lab.guest.run(`sysctl -qw net.ipv4.tcp_rmem="${memory}"`);
      writeFileSync(join(lab.dir, 'ask.cjs'), ask(15_000, '127.0.0.1'));
      await lab.withoutTimers(
        async () => {
          expect(await lab!.node(ask(7000, '192.168.64.1')), memory).toBe('all\n');
          expect(await lab!.host.ask(`${process.execPath} ${join(lab!.dir, 'ask.cjs')}`), memory).toBe('all\n');
        },
        async () => {
          const { timeouts = 0, probes = 0 } = await lab!.stats();
          return { timeouts, probes, ofTheGuest: lab!.count('TcpExtTCPTimeouts') };
        },
      );
    }
  });

  test.each([
    ['1 % loss', 4_000_000, ['loss=10000', 'seed=1']],
    ['10 % loss', 1_000_000, ['loss=100000', 'seed=5']],
    ['2 % reordered', 4_000_000, ['reorder=20000', 'seed=2']],
    ['2 % duplicated', 4_000_000, ['dup=20000', 'seed=3']],
    ['all combined', 4_000_000, ['loss=3000', 'reorder=5000', 'dup=5000', 'seed=4']],
  ])('B67: %s: still byte for byte', async (_name, bytes, damage) => {
    lab = new Lab(1500, damage);
    await lab.ready();
    expect(await lab.node(UP(bytes))).toBe('same\n');
    await down(bytes);
  });

  test('B67: echo of 64 MiB through a guest whose queue drops bursts: losses are retransmitted at once, within the guest’s window', async () => {
    lab = new Lab(1500, [], '15000:7000');
    await lab.ready();
    lab.guest.run('ip link set tap0 txqueuelen 100');
    lab.guest.spawn([process.execPath, '-e', "require('net').createServer({allowHalfOpen:true},(c)=>c.on('error',()=>{}).pipe(c)).listen(7000,'0.0.0.0')"]);
    const echo = `const net=require('net'),c=require('crypto');const s=net.connect({port:15000,host:'127.0.0.1',allowHalfOpen:true});const up=c.createHash('sha256'),down=c.createHash('sha256');
      s.on('error',()=>process.exit(1));s.on('data',(d)=>down.update(d));s.on('end',()=>console.log(up.digest('hex')===down.digest('hex')));const b=c.randomBytes(1<<20);let k=0;
      (function go(){while(k<64){k++;up.update(b);if(!s.write(b))return s.once('drain',go);}s.end();})();`;
    writeFileSync(join(lab.dir, 'echo.cjs'), echo);
    await until('the guest listens', () => lab!.guest.attempt('ss -Htln sport = :7000') !== '');
    await lab.withoutTimers(
      async () => expect(await lab!.host.ask(`${process.execPath} ${join(lab!.dir, 'echo.cjs')}`)).toBe('true\n'),
      async () => {
        const { retransmissions = 0, timeouts = 0 } = await lab!.stats();
        return { retransmissions, timeouts };
      },
      // thousands of frames are lost: without fast retransmission there would be hundreds
      10,
    );
    expect(Number(lab.guest.run('cat /sys/class/net/tap0/statistics/tx_dropped')), 'frames were lost').toBeGreaterThan(0);
    expect([lab.count('TcpExtTCPSackRecovery') > 0, lab.count('TcpExtTCPRenoRecovery'), lab.count('TcpExtBeyondWindow')]).toEqual([true, 0, 0]);
  });

  test('B67: tiny windows: a guest with a receive buffer of 2 KB, and one that reads slowly', async () => {
    lab = new Lab(1500);
    await lab.ready();
    lab.guest.run('sysctl -qw net.ipv4.tcp_rmem="2048 2048 4096"');
    await down(300_000);
    lab.guest.run('sysctl -qw net.ipv4.tcp_rmem="4096 8192 16384"');
    await down(4_000_000);
  });

  test.each(SOCKETS)('B65, B67: refused, reset, half-closed, by %s', async (sockets) => {
    lab = new Lab(1500, [], '', sockets);
    await lab.ready();
    const connect = (port: number, then: string) =>
      `const s=require('net').connect({port:${port},host:'192.168.64.1',allowHalfOpen:true});s.on('error',(e)=>console.log(e.code));s.on('connect',()=>{${then}});s.on('data',(d)=>console.log(String(d).trim()));s.on('end',()=>console.log('end'))`;
    expect(await lab.node(connect(7001, ''))).toBe('ECONNREFUSED\n');
    expect(await lab.node(connect(7000, "s.write('R')"))).toBe('ECONNRESET\n');
    expect(await lab.node(connect(7000, "s.write('Habc');s.end()"))).toBe(`3 ${createHash('sha256').update('abc').digest('hex')}\nend\n`);
    const stats = await lab.stats();
    expect(stats).toMatchObject({ flows: 0, queued: 0 });
  });

  test.each(SOCKETS)('a peer that does not read stalls the guest, and memory stays bounded, by %s', async (sockets) => {
    lab = new Lab(1500, [], '', sockets);
    await lab.ready();
    const before = (await lab.stats())['rss'];
    const sent = await lab.node(`
      const net = require('net'); const all = []; let sent = 0;
      for (let i = 0; i < 20; i++) { const s = net.connect(7000, '192.168.64.1', () => { s.write('W'); const b = Buffer.alloc(1 << 20); const more = () => { while (s.write(b)) sent += b.length; s.once('drain', more); }; more(); }); s.on('error', () => {}); all.push(s); }
      let last = -1; setInterval(() => { const now = all.reduce((n, s) => n + s.bytesWritten - s.writableLength, 0); if (now === last) { console.log(now); process.exit(0); } last = now; }, 3000);`);
    expect(Number(sent)).toBeGreaterThan(1_000_000);
    const stats = await lab.stats();
    expect(stats['queued']).toBeLessThan(48 << 20);
    expect(stats['rss'] - before).toBeLessThan(220 << 20);
    // nor does the host's kernel hold more than half a megabyte of unsent data for each
    const kept = [...lab.host.run('ss -Htmn state established dport = :7000').matchAll(/,w(\d+)/g)].map((m) => Number(m[1]));
    expect(kept.length).toBeGreaterThan(0);
    expect(Math.max(...kept)).toBeLessThan(1 << 20);
    // and the next connection is served normally
    await down(5_000_000);
  });

  test('10,000 half-open and 5,000 reset connections neither delay the next one nor leak; memory stays flat', async () => {
    lab = new Lab(1500);
    await lab.ready();
    // nobody answers there: a link without a peer
    lab.host.run('ip link add d0 type veth peer name d1; ip link set d1 up; ip link set d0 arp off up; ip addr add 203.0.113.254/24 dev d0');
    writeFileSync(join(lab.dir, 'syn.py'), SYNS);
    expect(await lab.guest.ask(`python3 ${join(lab.dir, 'syn.py')} 203.0.113.1 1 250`)).toBe('sent\n');
    await until('all have come', async () => (await lab!.stats())['opened'] > 10_000);
    // no segment of a healthy connection is retransmitted
    const download = () =>
      lab!.withoutTimers(
        () => down(1_000_000),
        async () => ({ sentTwice: lab!.count('TcpRetransSegs') }),
      );
    await download();
    const many = (then: string, count = 5000): string => `
      const net = require('net'); let n = 0, live = 0, ok = 0;
      const go = () => { while (live < 100 && n < ${count}) { n++; live++; const s = net.connect(7000, '192.168.64.1', () => { ok++; ${then} }); s.on('error', () => {}); s.on('data', () => {}); s.on('close', () => { live--; go(); }); } if (n === ${count} && live === 0) console.log(ok); };
      go();`;
    expect(await lab.node(many('s.resetAndDestroy()'))).toBe('5000\n');
    await download();
    const before = await lab.stats();
    expect(await lab.node(many("s.write('R')", CONNECTIONS))).toBe(`${CONNECTIONS}\n`);
    const after = await lab.stats();
    expect(after['held'] - before['held'], `bytes held after ${CONNECTIONS} connections`).toBeLessThan(8 << 20);
    expect(after['rss'] - before['rss']).toBeLessThan(200 << 20);
  });

  test.each([
    ['one address', 'new addresses', '203.0.113.1 1 1', true],
    ['10,000 addresses of 40 networks', 'new addresses', '10.128.0.0 1 10000', true],
    ['10,000 networks', 'an end that has answered before', '10.128.0.0 256 10000', false],
  ])('a connection that is begun within a burst of 10,000 SYNs to %s comes at once, to %s', async (burst, _to, where, fresh) => {
    lab = new Lab(1500);
    await lab.ready();
    lab.host.run('ip link add d0 type veth peer name d1; ip link set d1 up; ip link set d0 arp off up; ip addr add 203.0.113.254/24 dev d0');
    lab.host.run('ip route add 10.128.0.0/9 dev d0; ip route add local 198.18.0.0/16 dev lo');
    writeFileSync(join(lab.dir, 'syn.py'), SYNS);
    const before = (await lab.stats())['opened'];
    const knocks = lab.node(KNOCK(fresh));
    await until('they have begun', async () => (await lab!.stats())['opened'] > before + 20);
    expect(await lab.guest.ask(`python3 ${join(lab.dir, 'syn.py')} ${where}`)).toBe('sent\n');
    const [count, bad, slowest] = ((await knocks) ?? '').split('\n')[0].split(' ').map(Number);
    const stats = await lab.stats();
    console.info(`10,000 SYNs to ${burst}: ${count} connections beside them, the slowest took ${slowest} ms`);
    expect(bad).toBe(0);
    expect(stats['opened'] - before, 'each of them was begun once: none was pushed out').toBe(10_000 + count!);
  });

  test('B67: a vanished idle guest frees its connection and host socket; a live one keeps them', async () => {
    lab = new Lab(1500, [], '', 'handles', { KEEP_ALIVE: '{"idle":200,"interval":100,"probes":3}' });
    await lab.ready();
    // otherwise the kernel answers one such probe in half a second (RFC 5961)
    lab.guest.run('sysctl -qw net.ipv4.tcp_invalid_ratelimit=0');
    const served = (): boolean => lab!.host.attempt('ss -Htn state established sport = :7000 | grep -q .') !== null;
    lab.guest.spawn([process.execPath, '-e', "require('net').connect(7000,'192.168.64.1',function(){this.write('Ehello');this.on('error',()=>{})})"]);
    await until('it is asked, and answers', async () => {
      const stats = await lab!.stats();
      return stats['probes'] >= 5 && stats['flows'] === 1;
    });
    expect([(await lab.stats())['silent'], served()]).toEqual([0, true]);
    // from now on nothing answers for that address, without an error
    lab.guest.run('ip addr del 192.168.64.2/24 dev tap0');
    await until('the flow is removed', async () => (await lab!.stats())['flows'] === 0);
    expect((await lab.stats())['silent']).toBe(1);
    await until('the host socket is closed', () => !served());
  });

  test('B67: the host’s keep-alive detects a vanished idle peer, and the guest’s connection is reset', async () => {
    lab = new Lab(1500);
    await lab.ready();
    const far = new Namespace(`${prefix}tpfar`);
    try {
      lab.host.run(`ip link add f0 type veth peer name f1 netns ${far.name}; ip addr add 10.77.0.1/24 dev f0; ip link set f0 up`);
      far.run('ip addr add 10.77.0.2/24 dev f1; ip link set f1 up');
      lab.host.run('sysctl -qw net.ipv4.tcp_keepalive_time=1 net.ipv4.tcp_keepalive_intvl=1 net.ipv4.tcp_keepalive_probes=2');
      far.spawn([process.execPath, '-e', SERVER]);
      await until('it listens', () => far.attempt('ss -Htln sport = :7000') !== '');
      const output = lab.node(
        "const s=require('net').connect(7000,'10.77.0.2',()=>s.write('Ehello'));s.on('data',(d)=>console.log(String(d)));s.on('error',(e)=>console.log(e.code));",
      );
      await until('they have spoken', () => lab!.host.attempt('ss -Htno dst 10.77.0.2 | grep keepalive') !== null);
      far.run('ip addr del 10.77.0.2/24 dev f1');
      expect(await output).toBe('hello\nECONNRESET\n');
      await until('nothing is left', async () => (await lab!.stats())['flows'] === 0);
    } finally {
      far.close();
    }
  });

  test('without free descriptors, open connections continue, and others succeed when the guest retries', async () => {
    lab = new Lab(1500);
    await lab.ready();
    const pid = lab.pid();
    execFileSync('prlimit', ['--pid', String(pid), `--nofile=${readdirSync(`/proc/${pid}/fd`).length + 5}`]);
    const got = await lab.node(`
      const net = require('net'); let done = 0;
      for (let i = 0; i < 12; i++) { const s = net.connect(7000, '192.168.64.1', () => setTimeout(() => s.write('Ex'), 200)); s.on('error', (e) => console.log(e.code)); s.on('data', () => s.destroy()); s.on('close', () => { if (++done === 12) console.log('all'); }); }`);
    expect(got).toBe('all\n');
    expect((await lab.stats())['noSocket']).toBeGreaterThan(0);
  });

  test('1,000 concurrent downloads', async () => {
    lab = new Lab(1500);
    await lab.ready();
    const got = await lab.node(`
      const net = require('net'); let done = 0, bad = 0;
      for (let i = 0; i < 1000; i++) { let n = 0; const s = net.connect(7000, '192.168.64.1', () => s.write('G100000\\n')); s.on('data', (d) => n += d.length); s.on('error', () => {}); s.on('close', () => { if (n !== 100000) bad++; if (++done === 1000) console.log(done, bad); }); }`);
    expect(got).toBe('1000 0\n');
    await until('all flows are removed', async () => (await lab!.stats())['flows'] === 0);
  });

  test.each(SOCKETS)('B63, B67: forwarded connections reach the guest, and 500 client resets disturb no other, by %s', async (sockets) => {
    lab = new Lab(1500, [], '15000:7100', sockets);
    await lab.ready();
    lab.guest.spawn([process.execPath, '-e', "require('net').createServer((s)=>{s.on('error',()=>{});s.end(s.remoteAddress+'\\n')}).listen(7100,'0.0.0.0')"]);
    const ask = () =>
      lab!.host.ask(
        `${process.execPath} -e "const s=require('net').connect(15000,'127.0.0.1');s.on('data',d=>process.stdout.write(d));s.on('error',()=>process.exit(1))"`,
      );
    await until('the guest answers', async () => (await ask()) === '192.168.64.1\n');
    await lab.host.ask(
      `${process.execPath} -e "for(let i=0;i<500;i++){const s=require('net').connect(15000,'127.0.0.1',()=>s.resetAndDestroy());s.on('error',()=>{})}"`,
    );
    expect(await ask()).toBe('192.168.64.1\n');
  });
});
