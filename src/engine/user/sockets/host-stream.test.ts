/** Both kinds of host stream against real sockets of the loopback: what one does, the other does. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { HandleStream, hasHandles, takeClients } from './handle-stream.ts';
import { type HostStream, isFresh, NetStream, type StreamEvents, takeHandle } from './host-stream.ts';

/** The owner of a stream, who writes down what he is told. */
class Owner {
  readonly memory = new Uint8Array(65_536);
  stream: HostStream | null = null;
  said: string[] = [];
  bytes = 0;
  text = '';
  readonly #waiting: { what: string; tell: () => void }[] = [];

  tell(what: string): void {
    this.said.push(what);
    for (const w of this.#waiting) if (w.what === what) w.tell();
  }

  async hears(what: string): Promise<void> {
    if (!this.said.includes(what)) await new Promise<void>((tell) => this.#waiting.push({ what, tell }));
  }
}

const events: StreamEvents<Owner> = {
  readBuffer: (o) => o.memory,
  onConnect: (o) => o.tell('connected'),
  onData: (o, bytes) => {
    o.bytes += bytes;
    o.text = (o.text + Buffer.from(o.memory.subarray(0, bytes)).toString('latin1')).slice(-64);
    o.tell(o.text);
  },
  onCopied: (o, bytes) => {
    o.text = (o.text + bytes.toString('latin1')).slice(-64);
    o.tell(o.text);
  },
  onEnd: (o) => o.tell('end'),
  onWritten: (o) => o.tell(`written, ${o.stream?.queued}`),
  onFailed: (o, code) => o.tell(code),
  onClosed: (o) => o.tell('closed'),
};

const KINDS = {
  handles: {
    connect: (o: Owner, port: number, host = '127.0.0.1') => HandleStream.connect(o, events, host, port),
    adopt: (o: Owner, given: Socket) => HandleStream.adopt(o, events, takeHandle(given)),
  },
  'node:net': {
    connect: (o: Owner, port: number, host = '127.0.0.1') => NetStream.connect(o, events, host, port),
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
  socket.on('error', () => {}); // told by 'close'
  return socket;
}

test('handles are used on the releases of Node that are supported', () =>
  expect(hasHandles).toBe(['20', '22', '24'].includes(process.versions.node.split('.')[0] as string)));

describe.each(hasHandles ? (['handles', 'node:net'] as const) : (['node:net'] as const))('host streams by %s', (kind) => {
  async function pair(): Promise<{ owner: Owner; stream: HostStream; peer: Socket }> {
    const port = await listen();
    const owner = new Owner();
    owner.stream = KINDS[kind].connect(owner, port);
    expect(owner.said).toEqual([]);
    const [peer] = await Promise.all([accepted(), owner.hears('connected')]);
    return { owner, stream: owner.stream, peer };
  }

  test('bytes both ways, then the peer ends first, then we', async () => {
    const { owner, stream, peer } = await pair();
    peer.resume().on('data', (d) => peer.write(d));
    for (let i = 0; i < 3; i++) stream.write(Buffer.from(`${i}`));
    await owner.hears('012');
    peer.removeAllListeners('data').end('bye');
    await owner.hears('end');
    expect(owner.said).not.toContain('closed');
    const told = new Promise<string>((resolve) => peer.once('data', (d) => resolve(String(d))));
    stream.write(Buffer.from('yes'));
    expect(await told).toBe('yes');
    const over = once(peer, 'close');
    stream.end();
    await owner.hears('closed');
    expect((await over)[0], 'no error').toBe(false);
    expect(owner.said.filter((s) => s === 'end' || s === 'closed')).toEqual(['end', 'closed']);
  });

  test('we end first, and still hear what the peer says', async () => {
    const { owner, stream, peer } = await pair();
    peer.resume();
    stream.end();
    await once(peer, 'end');
    peer.end('late');
    await owner.hears('closed');
    expect(owner.said).toEqual(['connected', 'late', 'end', 'closed']);
  });

  test('refused; nobody is there to refuse; not reached at all', async () => {
    const port = await listen();
    server.close();
    await once(server, 'close');
    for (const [host, code] of [
      ['127.0.0.1', 'ECONNREFUSED'],
      ['255.255.255.255', 'ENETUNREACH'],
    ] as const) {
      const owner = new Owner();
      owner.stream = KINDS[kind].connect(owner, port, host);
      expect(owner.said).toEqual([]);
      await owner.hears(code);
      expect(owner.said).toEqual([code]);
      owner.stream.write(Buffer.from('x'));
      owner.stream.reset();
    }
  });

  test('a reset by the peer, and by us: also while it connects, with much queued, and right after our end', async () => {
    const first = await pair();
    first.peer.resetAndDestroy();
    await first.owner.hears('ECONNRESET');
    server.close();
    for (const before of [() => {}, (s: HostStream) => s.write(Buffer.alloc(64 << 20)), (s: HostStream) => s.end()]) {
      const { owner, stream, peer } = await pair();
      const error = once(peer, 'error') as Promise<[NodeJS.ErrnoException]>;
      peer.resume();
      before(stream);
      stream.reset();
      stream.reset();
      // Node does not look at a socket any more that has heard the end: it is told when it writes
      const asks = setInterval(() => peer.write('x'), 2);
      expect((await error)[0].code).toMatch(/^(ECONNRESET|EPIPE)$/);
      clearInterval(asks);
      expect(owner.said).toEqual(['connected']);
      server.close();
    }
    const owner = new Owner();
    KINDS[kind].connect(owner, await listen()).reset();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(owner.said).toEqual([]);
  });

  test('what the kernel does not take is queued, told as it goes, and ended after', async () => {
    const { owner, stream, peer } = await pair();
    const parts = 6;
    const part = Buffer.alloc(4 << 20, 'abcdefg');
    for (let i = 0; i < parts; i++) stream.write(part);
    stream.end();
    expect(stream.queued).toBeGreaterThan(2 * part.length);
    expect(owner.said).toEqual(['connected']);
    let bytes = 0;
    peer.resume().on('data', (d) => {
      bytes += d.length;
    });
    await once(peer, 'end');
    expect(bytes).toBe(parts * part.length);
    await owner.hears('written, 0');
    expect(owner.said.filter((s) => s.startsWith('written')).length).toBeGreaterThan(2);
    peer.end();
    await owner.hears('closed');
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

  test('a socket from outside is taken over, of TCP and of a unix socket; one that was read from is copied from', async () => {
    const path = join(tmpdir(), `anka-stream-${process.pid}-${kind.length}.sock`);
    for (const where of ['tcp', path]) {
      const port = await listen(where === 'tcp' ? undefined : where);
      const client = where === 'tcp' ? dial(port, '127.0.0.1') : dial(where);
      const given = await accepted();
      expect(isFresh(given)).toBe(true);
      const owner = new Owner();
      owner.stream = KINDS[kind].adopt(owner, given);
      client.write('hello');
      await owner.hears('hello');
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
    await owner.hears('head');
    client.end();
    await owner.hears('end');
    owner.stream.end();
    await owner.hears('closed');
  });
});

describe.runIf(hasHandles)('clients as handles', () => {
  test('come with their addresses, and carry bytes both ways when the server is closed already; one that is not wanted is reset', async () => {
    const port = await listen();
    const owner = new Owner();
    const addresses: [string, number][] = [];
    server.on('connection', () => owner.tell('a socket was made'));
    takeClients(server, (client, address, clientPort) => {
      addresses.push([address, clientPort]);
      if (addresses.length > 1) return void client.reset();
      owner.stream = HandleStream.adopt(owner, events, client);
      owner.tell('accepted');
    });
    const client = dial({ port, host: '127.0.0.1', allowHalfOpen: true });
    await owner.hears('accepted');
    const unwanted = dial(port, '127.0.0.1');
    expect(((await once(unwanted, 'error')) as [NodeJS.ErrnoException])[0].code).toBe('ECONNRESET');
    expect(addresses[0]).toEqual(['127.0.0.1', client.localPort]);
    server.close();
    await once(server, 'close');
    client.write('hello');
    await owner.hears('hello');
    owner.stream?.write(Buffer.from('you'));
    expect(String((await once(client, 'data'))[0])).toBe('you');
    client.end();
    await owner.hears('end');
    const over = once(client, 'close');
    owner.stream?.end();
    expect((await over)[0], 'no error').toBe(false);
    expect(owner.said).toEqual(['accepted', 'hello', 'end', 'closed']);
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
    const client = dial(port, '127.0.0.1').on('error', () => {}); // told by 'close'
    const owner = await taken;
    expect(execFileSync('ss', ['-Htno', `sport = :${port}`], { encoding: 'utf8' })).toContain('timer:(keepalive');
    const over = new Promise((resolve) => client.once('close', resolve));
    owner.stream?.reset();
    await over;
  });
});
