/**
 * What a guest's TCP expects of its peer beyond the byte stream, on both engines: urgent data, keep-alives that find a
 * dead peer, the user timeout (RFC 6093, RFC 9293 3.8.4, RFC 5482).
 */
import type { ChildProcess } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, guest, macText, nic, rule, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';

const SUITES = onBothEngines('TCP beyond the stream, ');
const INTERNET = '198.51.100.1';

/**
 * Port 7001: sends `ab`, an urgent `!`, `cd`. Port 7002: echoes. Port 7003: prints what it gets, with urgent data. Port
 * 7004: sends `part`, and a RST right behind it.
 */
const SERVER = `
import socket, struct, threading, time
def listen(port, serve):
    s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('', port)); s.listen(16)
    def accept():
        while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
def urgent(c):
    c.sendall(b'ab'); time.sleep(0.3); c.send(b'!', socket.MSG_OOB); time.sleep(0.3); c.sendall(b'cd'); c.close()
def echo(c):
    while True:
        b = c.recv(65536)
        if not b: break
        c.sendall(b)
    c.close()
def show(c):
    c.setsockopt(1, 10, 1); got = b''
    while True:
        b = c.recv(65536)
        if not b: break
        got += b
    c.sendall(got); c.close()
def cut_off(c):
    c.setsockopt(1, 13, struct.pack('ii', 1, 0)); c.recv(1); c.sendall(b'part'); c.close()
listen(7004, cut_off); listen(7001, urgent); listen(7002, echo); listen(7003, show); print('ready', flush=True)
threading.Event().wait()
`;

/** Connects and reads to the end, with urgent data left in the stream. */
const READ = (address: string, port: number): string => `
import socket
s = socket.create_connection(('${address}', ${port})); s.setsockopt(1, 10, 1); got = b''
while True:
    b = s.recv(99)
    if not b: break
    got += b
print(got.decode())
`;

/** Sends `ab`, an urgent `!`, `cd`, and prints what the server got. */
const SEND = (address: string, port: number): string => `
import socket, time
s = socket.create_connection(('${address}', ${port}))
s.sendall(b'ab'); time.sleep(0.3); s.send(b'!', socket.MSG_OOB); time.sleep(0.3); s.sendall(b'cd'); s.shutdown(1)
print(s.recv(99).decode())
`;

/** Prints how many of 40 connections end in each way, read to the end. */
const ENDS = (address: string, port: number): string => `
import collections, socket
ends = collections.Counter()
for i in range(40):
    s = socket.create_connection(('${address}', ${port})); s.sendall(b'x')
    try:
        while s.recv(9): pass
        ends['whole'] += 1
    except OSError as e: ends[type(e).__name__] += 1
print(dict(ends))
`;

/** A keep-alive after 1 s, then two more; prints how the connection ends. */
const KEEP_ALIVE = `
s.setsockopt(1, 9, 1); s.setsockopt(6, 4, 1); s.setsockopt(6, 5, 1); s.setsockopt(6, 6, 3)
print('ready', flush=True)`;
/** Sends when told, with a user timeout of 2 s. */
const USER_TIMEOUT = `
s.setsockopt(6, 18, 2000)
print('ready', flush=True); sys.stdin.readline(); s.sendall(b'y')`;
/** Sends 300 kB when told, with no timeout, and reads them back. */
const PATIENT = `
print('ready', flush=True); sys.stdin.readline(); s.sendall(b'z' * 300000); left = 300000
while left > 0: left -= len(s.recv(left)) or sys.exit('ended')
print('all came back'); sys.exit()`;

const CLIENT = (what: string): string => `
import errno, socket, sys
s = socket.create_connection(('${INTERNET}', 7002)); s.sendall(b'x'); s.recv(1)${what}
try: print(len(s.recv(1)), 'bytes')
except OSError as e: print(errno.errorcode[e.errno])
`;

describe.each(SUITES)('%s', (_suite, { kind, why }) => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;

  beforeEach((context) => context.skip(why !== null));

  const serve = async (ns: Namespace): Promise<void> => {
    const child = ns.spawn(['python3', '-c', SERVER]);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
  };
  const python = async (ns: Namespace, program: string): Promise<string> => {
    const path = join(w.dir, 'program.py');
    writeFileSync(path, program);
    return ((await ns.ask(`python3 ${path}`)) ?? 'the program failed').trim();
  };

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('tc-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    if (kind === 'kernel') vm1 = guest(w, 1);
    e = new RemoteEngine(w, kind);
    expect(await e.apply(state(nic(1, 'shared', { rules: [rule(17_003, 7003), rule(17_004, 7004)] })))).toEqual([]);
    if (kind === 'user') vm1 = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
    await dhcp(w, vm1);
    await serve(w.outside);
    await serve(vm1);
    await until('outside is reached', () => vm1.pings(INTERNET));
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('RFC 6093: an urgent byte stays in the stream, from and to the guest', async () => {
    expect(await python(vm1, READ(INTERNET, 7001))).toBe('ab!cd');
    expect(await python(vm1, SEND(INTERNET, 7003))).toBe('ab!cd');
  });

  test.each(['127.0.0.1', '10.9.0.2'])('RFC 6093: an urgent byte stays in the stream through a rule, to %s', async (address) => {
    expect(await python(address === '127.0.0.1' ? w.host : w.outside, SEND(address, 17_003))).toBe('ab!cd');
  });

  test('RFC 9293 3.10.7.4: what a reset cuts off does not look whole, also where the reset comes right behind data', async () => {
    const cutOff = "{'ConnectionResetError': 40}";
    expect(await python(vm1, ENDS(INTERNET, 7004))).toBe(cutOff);
    expect(await python(w.host, ENDS('127.0.0.1', 17_004))).toBe(cutOff);
    expect(await python(w.outside, ENDS('10.9.0.2', 17_004))).toBe(cutOff);
  });

  test('RFC 9293 3.8.4, RFC 5482: keep-alive and user timeout find a dead peer, and only a dead one; data survives an outage', async () => {
    const output: string[] = [];
    const clients = [KEEP_ALIVE, USER_TIMEOUT, PATIENT].map((what, i): ChildProcess => {
      const child = vm1.spawn(['python3', '-c', CLIENT(what)]);
      output[i] = '';
      child.stdout?.on('data', (d) => (output[i] += d));
      return child;
    });
    await until('the clients are connected', () => output.every((o) => o.startsWith('ready')));
    // several keep-alives long: their peer is alive
    await new Promise((resolve) => setTimeout(resolve, 5000));
    expect(output).toEqual(['ready\n', 'ready\n', 'ready\n']);
    w.outside.run('nft add table ip hole; nft add chain ip hole in "{ type filter hook input priority 0; policy drop; }"');
    try {
      for (const child of clients.slice(1)) child.stdin?.write('go\n');
      await until('keep-alive and user timeout have ended', () => output[0] !== 'ready\n' && output[1] !== 'ready\n');
      expect(output).toEqual(['ready\nETIMEDOUT\n', 'ready\nETIMEDOUT\n', 'ready\n']);
    } finally {
      w.outside.run('nft delete table ip hole');
    }
    await until('the patient client has its data', () => output[2] !== 'ready\n');
    expect(output[2]).toBe('ready\nall came back\n');
  });
});
