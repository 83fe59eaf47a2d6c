/** Both kinds of host stream against real sockets of the loopback, with the same expectations. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { HandleStream, hasHandles, takeClients } from './handle-stream.ts';
import { type HostStream, isFresh, NetStream, type StreamEvents, takeHandle } from './host-stream.ts';

/** The owner of a stream; records its events. */
class Owner {
  readonly memory = new Uint8Array(65_536);
  stream: HostStream | null = null;
  seen: string[] = [];
  bytes = 0;
  text = '';
  readonly #waiting: { what: string; resolve: () => void }[] = [];

  record(what: string): void {
    this.seen.push(what);
    for (const w of this.#waiting) if (w.what === what) w.resolve();
  }

  async waitFor(what: string): Promise<void> {
    if (!this.seen.includes(what)) await new Promise<void>((resolve) => this.#waiting.push({ what, resolve }));
  }
}

const events: StreamEvents<Owner> = {
  readBuffer: (o) => o.memory,
  onConnect: (o) => o.record('connected'),
  onData: (o, bytes) => {
    o.bytes += bytes;
    o.text = (o.text + Buffer.from(o.memory.subarray(0, bytes)).toString('latin1')).slice(-64);
    o.record(o.text);
  },
  onCopied: (o, bytes) => {
    o.text = (o.text + bytes.toString('latin1')).slice(-64);
    o.record(o.text);
  },
  onEnd: (o) => o.record('end'),
  onWritten: (o) => o.record(`written, ${o.stream?.queued}`),
  onFailed: (o, code) => o.record(code),
  onClosed: (o) => o.record('closed'),
};

const KINDS = {
  handles: {
    connect: (o: Owner, port: number, host = '127.0.0.1') => HandleStream.connect(o, events, { host, port }),
    adopt: (o: Owner, given: Socket) => HandleStream.adopt(o, events, takeHandle(given)),
  },
  'node:net': {
    connect: (o: Owner, port: number, host = '127.0.0.1') => NetStream.connect(o, events, { host, port }),
    adopt: (o: Owner, given: Socket) => NetStream.adopt(o, events, given),
  },
};

let server: Server;
afterEach(() => void server?.close());

async function listen(path?: string): Promise<number> {
  server = createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(path ?? { port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const at = server.address();
  return typeof at === 'object' && at ? at.port : 0;
}

async function accepted(): Promise<Socket> {
  const [socket] = (await once(server, 'connection')) as [Socket];
  socket.on('error', () => {}); // 'close' follows
  return socket;
}

test('handles are used on the releases of Node that are supported', () =>
  expect(hasHandles).toBe(['20', '22', '24'].includes(process.versions.node.split('.')[0] as string)));

describe.each(hasHandles ? (['handles', 'node:net'] as const) : (['node:net'] as const))('host streams by %s', (kind) => {
  async function pair(): Promise<{ owner: Owner; stream: HostStream; peer: Socket }> {
    const port = await listen();
    const owner = new Owner();
    owner.stream = KINDS[kind].connect(owner, port);
    expect(owner.seen).toEqual([]);
    const [peer] = await Promise.all([accepted(), owner.waitFor('connected')]);
    return { owner, stream: owner.stream, peer };
  }

  test('carries bytes both ways; the peer sends FIN first, then we', async () => {
    const { owner, stream, peer } = await pair();
    peer.resume().on('data', (d) => peer.write(d));
    for (let i = 0; i < 3; i++) stream.write(Buffer.from(`${i}`));
    await owner.waitFor('012');
    peer.removeAllListeners('data').end('bye');
    await owner.waitFor('end');
    expect(owner.seen).not.toContain('closed');
    const received = new Promise<string>((resolve) => peer.once('data', (d) => resolve(String(d))));
    stream.write(Buffer.from('yes'));
    expect(await received).toBe('yes');
    const over = once(peer, 'close');
    stream.end();
    await owner.waitFor('closed');
    expect((await over)[0], 'no error').toBe(false);
    expect(owner.seen.filter((s) => s === 'end' || s === 'closed')).toEqual(['end', 'closed']);
  });

  test('after our FIN, data of the peer still arrives', async () => {
    const { owner, stream, peer } = await pair();
    peer.resume();
    stream.end();
    await once(peer, 'end');
    peer.end('late');
    await owner.waitFor('closed');
    expect(owner.seen).toEqual(['connected', 'late', 'end', 'closed']);
  });

  test('reports a refused port, an unused address and an unreachable network', async () => {
    const port = await listen();
    server.close();
    await once(server, 'close');
    for (const [host, code] of [
      ['127.0.0.1', 'ECONNREFUSED'],
      ['255.255.255.255', 'ENETUNREACH'],
    ] as const) {
      const owner = new Owner();
      owner.stream = KINDS[kind].connect(owner, port, host);
      expect(owner.seen).toEqual([]);
      await owner.waitFor(code);
      expect(owner.seen).toEqual([code]);
      owner.stream.write(Buffer.from('x'));
      owner.stream.reset();
    }
  });

  test('resets by the peer and by us: also while connecting, with a full queue, and right after our FIN', async () => {
    const first = await pair();
    first.peer.resetAndDestroy();
    await first.owner.waitFor('ECONNRESET');
    server.close();
    for (const before of [() => {}, (s: HostStream) => s.write(Buffer.alloc(64 << 20)), (s: HostStream) => s.end()]) {
      const { owner, stream, peer } = await pair();
      const error = once(peer, 'error') as Promise<[NodeJS.ErrnoException]>;
      peer.resume();
      before(stream);
      stream.reset();
      stream.reset();
      // Node stops polling a socket after FIN: only a write reports the reset
      const asks = setInterval(() => peer.write('x'), 2);
      expect((await error)[0].code).toMatch(/^(ECONNRESET|EPIPE)$/);
      clearInterval(asks);
      expect(owner.seen).toEqual(['connected']);
      server.close();
    }
    const owner = new Owner();
    KINDS[kind].connect(owner, await listen()).reset();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(owner.seen).toEqual([]);
  });

  test('a reset that comes together with data is no end', async () => {
    const { owner, peer } = await pair();
    // both are in the kernel before the stream looks again
    peer.write('cut off');
    peer.resetAndDestroy();
    await owner.waitFor('ECONNRESET');
    expect(owner.seen).toEqual(['connected', 'cut off', 'ECONNRESET']);
  });

  test('what the kernel does not take is queued, reported once written, and followed by FIN', async () => {
    const { owner, stream, peer } = await pair();
    const parts = 6;
    const part = Buffer.alloc(4 << 20, 'abcdefg');
    for (let i = 0; i < parts; i++) stream.write(part);
    stream.end();
    expect(stream.queued).toBeGreaterThan(2 * part.length);
    expect(owner.seen).toEqual(['connected']);
    let bytes = 0;
    peer.resume().on('data', (d) => {
      bytes += d.length;
    });
    await once(peer, 'end');
    expect(bytes).toBe(parts * part.length);
    await owner.waitFor('written, 0');
    expect(owner.seen.filter((s) => s.startsWith('written')).length).toBeGreaterThan(2);
    peer.end();
    await owner.waitFor('closed');
  });

  test('paused, it does not read', async () => {
    const { owner, stream, peer } = await pair();
    stream.pause();
    peer.write(Buffer.alloc(32 << 20));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(owner.bytes).toBe(0);
    expect(peer.writableLength).toBeGreaterThan(0);
    stream.resume();
    while (owner.bytes < 32 << 20) await new Promise((resolve) => setTimeout(resolve, 2));
    stream.reset();
  });

  test('adopts an accepted TCP or unix socket; reads of one that was read before are copied', async () => {
    const path = join(tmpdir(), `anka-stream-${process.pid}-${kind.length}.sock`);
    for (const where of ['tcp', path]) {
      const port = await listen(where === 'tcp' ? undefined : where);
      const client = where === 'tcp' ? dial(port, '127.0.0.1') : dial(where);
      const given = await accepted();
      expect(isFresh(given)).toBe(true);
      const owner = new Owner();
      owner.stream = KINDS[kind].adopt(owner, given);
      client.write('hello');
      await owner.waitFor('hello');
      owner.stream.write(Buffer.from('you'));
      expect(String((await once(client, 'data'))[0])).toBe('you');
      const closed = new Promise<string>((resolve) => client.on('error', (e: NodeJS.ErrnoException) => resolve(e.code ?? '')).on('close', () => resolve('')));
      owner.stream.reset();
      expect(await closed).toBe(where === 'tcp' ? 'ECONNRESET' : '');
      server.close();
    }
    const client = dial(await listen(), '127.0.0.1');
    client.write('head');
    const given = await accepted();
    given.resume();
    const [head] = (await once(given, 'data')) as [Buffer];
    given.pause();
    given.unshift(head);
    expect(isFresh(given)).toBe(false);
    const owner = new Owner();
    owner.stream = NetStream.adopt(owner, events, given);
    await owner.waitFor('head');
    client.end();
    await owner.waitFor('end');
    owner.stream.end();
    await owner.waitFor('closed');
  });
});

describe.runIf(hasHandles)('clients as handles', () => {
  test('come with their addresses, and carry bytes both ways after the server was closed; a refused one is reset', async () => {
    const port = await listen();
    const owner = new Owner();
    const addresses: [string, number][] = [];
    server.on('connection', () => owner.record('a socket was made'));
    takeClients(server, (client, address, clientPort) => {
      addresses.push([address, clientPort]);
      if (addresses.length > 1) return void client.reset();
      owner.stream = HandleStream.adopt(owner, events, client);
      owner.record('accepted');
    });
    const client = dial({ port, host: '127.0.0.1', allowHalfOpen: true });
    await owner.waitFor('accepted');
    const unwanted = dial(port, '127.0.0.1');
    expect(((await once(unwanted, 'error')) as [NodeJS.ErrnoException])[0].code).toBe('ECONNRESET');
    expect(addresses[0]).toEqual(['127.0.0.1', client.localPort]);
    server.close();
    await once(server, 'close');
    client.write('hello');
    await owner.waitFor('hello');
    owner.stream?.write(Buffer.from('you'));
    expect(String((await once(client, 'data'))[0])).toBe('you');
    client.end();
    await owner.waitFor('end');
    const over = once(client, 'close');
    owner.stream?.end();
    expect((await over)[0], 'no error').toBe(false);
    expect(owner.seen).toEqual(['accepted', 'hello', 'end', 'closed']);
  });

  test.runIf(process.platform === 'linux')('take over from their server that the kernel looks after their peers', async () => {
    const port = await listen();
    const taken = new Promise<Owner>((resolve) =>
      takeClients(server, (client) => {
        const owner = new Owner();
        owner.stream = HandleStream.adopt(owner, events, client);
        resolve(owner);
      }),
    );
    const client = dial(port, '127.0.0.1').on('error', () => {}); // 'close' follows
    const owner = await taken;
    expect(execFileSync('ss', ['-Htno', `sport = :${port}`], { encoding: 'utf8' })).toContain('timer:(keepalive');
    const over = new Promise((resolve) => client.once('close', resolve));
    owner.stream?.reset();
    await over;
  });
});
