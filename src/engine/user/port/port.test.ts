import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { PacketMemory } from '../../../net/memory/packet-memory.ts';
import { GuardedCard } from '../../../net/switch/guard.ts';
import { Port } from './port.ts';
import { PortMemory } from './port-memory.ts';

const FRAME = 1500;
/** Frames: more than the queue and the kernel's buffers of a stream hold together. */
const MANY = 40_000;

/** A QEMU that counts the bytes it gets, while it reads. */
class Machine {
  readonly server: Server;
  socket: Socket | null = null;
  got = 0;
  /** The longest single read, bytes. */
  largest = 0;
  /** Pauses after each read. */
  sips = false;

  constructor(path: string) {
    this.server = createServer({ pauseOnConnect: true }, (s) => {
      this.socket = s;
      s.on('data', (d: Buffer) => {
        this.got += d.length;
        this.largest = Math.max(this.largest, d.length);
        if (this.sips) s.pause();
      });
      s.resume();
    }).listen(path);
  }

  send(frames: number, size = FRAME): void {
    const frame = Buffer.alloc(4 + size);
    frame.writeUInt32BE(size);
    for (let left = frames; left > 0; left -= 100) this.socket?.write(Buffer.concat(Array.from({ length: Math.min(left, 100) }, () => frame)));
  }
}

describe('a port whose guest falls behind', () => {
  let dir: string;
  let machines: Machine[];
  let ports: Port[];
  const dropped = (): number => ports[0]?.drops.toRecord()['queue_full'] ?? 0;
  /** Waits turns of the loop until it is true. */
  const until = async (what: () => boolean): Promise<void> => {
    while (!what()) await turn();
  };

  beforeEach(async () => {
    const memory = new PortMemory(new PacketMemory(64 << 20));
    dir = mkdtempSync(join(tmpdir(), 'anka-port-'));
    const paths = ['a', 'b'].map((n) => join(dir, n));
    machines = paths.map((p) => new Machine(p));
    await Promise.all(machines.map((m) => once(m.server, 'listening')));
    // fake timers: how long senders are paused, and when the receiver's speed is checked
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
    const owner = { onRun: (from: Port, start: number, end: number) => ports[1]?.queue.forward(start, end, from), onRoom: () => {}, onLink: () => {} };
    const config = { isolated: false, mtu: 1500 };
    ports = paths.map((socket, index) => {
      const mac = 0x564545000001 + index;
      return new Port({ ...config, index, card: new GuardedCard(`${index}`, mac), insideMac: mac, socket }, memory, owner);
    });
    await until(() => ports.every((p) => p.connected) && machines.every((m) => m.socket !== null));
  });

  afterEach(() => {
    for (const p of ports) p.close();
    for (const m of machines) {
      m.socket?.destroy();
      m.server.close();
    }
    vi.useRealTimers();
    rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
  });

  test('pauses its senders for 100 ms, then resumes them; once it has caught up, they are paused again', async () => {
    const [from, to] = machines as [Machine, Machine];
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 0);
    expect(dropped()).toBe(0);
    vi.advanceTimersByTime(100);
    await until(() => from.socket?.writableLength === 0 && ports[0]?.fromGuest.packets === MANY);
    const lost = dropped();
    expect(lost).toBeGreaterThan(0);
    to.socket?.resume();
    await until(() => to.got === (MANY - lost) * (4 + FRAME));
    // the second time, before the 100 ms are over
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 1);
    to.socket?.resume();
    await until(() => to.got === (2 * MANY - lost) * (4 + FRAME));
    expect(dropped()).toBe(lost);
  });

  test('B91: while it reads nothing, other guests fill only their share of its queue, and the gateway still has room', async () => {
    const [from, to] = machines as [Machine, Machine];
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 0);
    vi.advanceTimersByTime(100);
    await until(() => ports[0]?.fromGuest.packets === MANY);
    expect(dropped()).toBeGreaterThan(0);
    expect(ports[1]?.queue.tryReserve(65_536)).toBeGreaterThan(0);
  });

  test('B91: many small frames go to the kernel a few dozen at a time, as QEMU would buffer any number; large ones do not', async () => {
    const [from, to] = machines as [Machine, Machine];
    const SIZE = 60;
    from.send(MANY, SIZE);
    await until(() => to.got >= 10_000 * (4 + SIZE));
    to.largest = 0;
    await until(() => to.got === MANY * (4 + SIZE));
    expect(to.largest).toBeLessThan(8 << 10);
    vi.advanceTimersByTime(1000); // in which there were many
    vi.advanceTimersByTime(1000);
    to.largest = 0;
    from.send(MANY, 1514);
    await until(() => to.got === MANY * (4 + SIZE + 4 + 1514));
    expect(to.largest).toBeGreaterThan(32 << 10);
    expect(dropped()).toBe(0);
  });

  test('B91: while it is flooded, the gateway always has room, a few hundred KB behind; once it is fast again, the kernel buffers more', async () => {
    const [from, to] = machines as [Machine, Machine];
    const port = ports[1] as Port;
    /** Bytes ahead of a frame that the gateway sends now. */
    const ahead = (): number => port.queue.counts.bytes + 4 * port.queue.counts.packets - to.got;
    const flood = (): void => {
      if ((from.socket?.writableLength ?? 0) < 1 << 20) from.send(1000);
    };
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 0);
    const before = ahead();
    vi.advanceTimersByTime(100);
    // it reads slower than frames arrive
    to.sips = true;
    const sip = async (): Promise<void> => {
      const { got } = to;
      to.socket?.resume();
      await until(() => to.got > got);
    };
    while (ahead() > before / 2) await sip();
    let most = 0;
    for (let i = 0; i < 300; i++) {
      flood();
      await sip();
      for (let turns = 0; turns < 5; turns++) await turn();
      expect([port.queue.room() > 0, port.queue.canSendControl()]).toEqual([true, true]);
      most = Math.max(most, i < 100 ? 0 : ahead());
    }
    expect(most).toBeGreaterThan(64 << 10);
    expect(most).toBeLessThan(640 << 10);
    to.sips = false;
    // it reads everything, more than 128 MiB before the check
    to.socket?.resume();
    const { got } = to;
    while (to.got < got + (200 << 20)) {
      flood();
      await turn();
    }
    vi.advanceTimersByTime(1000);
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 0);
    expect(ahead()).toBeGreaterThan(before / 2);
  });
});

describe('a guest whose frames take long', () => {
  test('yields to others, and its frames arrive complete and in order, even at a slow receiver', async () => {
    // senders are paused without a time limit
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const memory = new PortMemory(new PacketMemory(64 << 20));
    const dir = mkdtempSync(join(tmpdir(), 'anka-port-'));
    const sockets: Socket[] = [];
    const servers: Server[] = [];
    const listen = async (name: string): Promise<{ path: string; socket: () => Socket }> => {
      const path = join(dir, name);
      let socket: Socket | null = null;
      servers.push(
        createServer({ pauseOnConnect: true }, (s) => {
          sockets.push(s);
          socket = s;
        }).listen(path),
      );
      await once(servers.at(-1) as Server, 'listening');
      return { path, socket: () => socket as unknown as Socket };
    };
    const [a, b, c] = [await listen('a'), await listen('b'), await listen('c')];
    const runs: string[] = [];
    const ports: Port[] = [];
    const owner = {
      onRun: (from: Port, start: number, end: number): void => {
        runs.push(from.id);
        // some runs take longer than a turn
        if (from.id === '0' && runs.length % 16 === 0) for (const until = performance.now() + 5; performance.now() < until; );
        if (from.id === '0') ports[1]?.queue.forward(start, end, from);
      },
      onRoom: () => {},
      onLink: () => {},
    };
    for (const [index, { path }] of [a, b, c].entries()) {
      const mac = 0x564545000001 + index;
      ports.push(new Port({ isolated: false, mtu: 1500, index, card: new GuardedCard(`${index}`, mac), insideMac: mac, socket: path }, memory, owner));
    }
    try {
      while (!ports.every((p) => p.connected) || sockets.length < 3) await turn();
      // frames of many sizes, numbered
      const SENT = 300_000;
      const frames = Array.from({ length: SENT }, (_, n) => {
        const f = Buffer.alloc(4 + 20 + ((n * 37) % 60), n);
        f.writeUInt32BE(f.length - 4);
        f.writeUInt32BE(n, 4 + 14);
        return f;
      });
      const all = Buffer.concat(frames);
      a.socket().write(all);
      // the third guest sends an occasional small frame
      const chat = setInterval(() => c.socket().write(frames[0] as Buffer), 1);
      const got: Buffer[] = [];
      let bytes = 0;
      b.socket().on('data', (d: Buffer) => {
        got.push(d);
        bytes += d.length;
        b.socket().pause();
      });
      // reads nothing until the kernel's buffers and the queue are full, then a little each turn
      while (vi.getTimerCount() === 0) await turn();
      while (bytes < all.length) {
        b.socket().resume();
        for (let i = 0; i < 3; i++) await turn();
      }
      clearInterval(chat);
      expect(ports[0]?.drops.toRecord()).toEqual({});
      expect(Buffer.concat(got).equals(all), 'the same bytes').toBe(true);
      // the third was served between runs of the first, repeatedly
      expect(runs.filter((id, i) => id === '2' && runs[i - 1] === '0').length).toBeGreaterThan(10);
    } finally {
      for (const p of ports) p.close();
      for (const s of sockets) s.destroy();
      for (const s of servers) s.close();
      vi.useRealTimers();
      rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
    }
  });
});
