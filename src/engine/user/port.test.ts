import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { GuardedCard } from '../../net/guard.ts';
import { PacketMemory } from '../../net/packet-memory.ts';
import { Port, PortMemory } from './port.ts';

const FRAME = 1000;
/** More than the queue and the kernel's buffers of a stream together. */
const MANY = 40_000;

/** A QEMU that counts the bytes it gets, while it reads. */
class Machine {
  readonly server: Server;
  socket: Socket | null = null;
  got = 0;

  constructor(path: string) {
    this.server = createServer({ pauseOnConnect: true }, (s) => {
      this.socket = s;
      s.on('data', (d: Buffer) => {
        this.got += d.length;
      });
      s.resume();
    }).listen(path);
  }

  send(frames: number): void {
    const frame = Buffer.alloc(4 + FRAME);
    frame.writeUInt32BE(FRAME);
    for (let left = frames; left > 0; left -= 100) this.socket?.write(Buffer.concat(Array.from({ length: Math.min(left, 100) }, () => frame)));
  }
}

describe('a port whose guest falls behind', () => {
  let dir: string;
  let machines: Machine[];
  let ports: Port[];
  const dropped = (): number => ports[0]?.drops.toRecord()['queue_full'] ?? 0;
  /** Turns of the loop until it is so. */
  const until = async (what: () => boolean): Promise<void> => {
    while (!what()) await turn();
  };

  beforeEach(async () => {
    const memory = new PortMemory(new PacketMemory(64 << 20));
    dir = mkdtempSync(join(tmpdir(), 'anka-port-'));
    const paths = ['a', 'b'].map((n) => join(dir, n));
    machines = paths.map((p) => new Machine(p));
    await Promise.all(machines.map((m) => once(m.server, 'listening')));
    // only the time for which senders are held back is not real
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const owner = { onRun: (from: Port, start: number, end: number) => ports[1]?.forward(start, end, from), onRoom: () => {}, onLink: () => {} };
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

  test('holds its senders back for 100 ms, then lets them go on; when it has caught up, they wait for it again', async () => {
    const [from, to] = machines as [Machine, Machine];
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 0);
    expect(dropped()).toBe(0);
    vi.advanceTimersByTime(100);
    await until(() => from.socket?.writableLength === 0 && ports[0]?.counts.fromPackets === MANY);
    const lost = dropped();
    expect(lost).toBeGreaterThan(0);
    to.socket?.resume();
    await until(() => to.got === (MANY - lost) * (4 + FRAME));
    // the second time, before it is given up
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 0);
    to.socket?.resume();
    await until(() => to.got === (2 * MANY - lost) * (4 + FRAME));
    expect(dropped()).toBe(lost);
  });

  test('B91: while it takes nothing, other guests fill a part of its queue, and the gateway still has room', async () => {
    const [from, to] = machines as [Machine, Machine];
    to.socket?.pause();
    from.send(MANY);
    await until(() => vi.getTimerCount() > 0);
    vi.advanceTimersByTime(100);
    await until(() => ports[0]?.counts.fromPackets === MANY);
    expect(dropped()).toBeGreaterThan(0);
    expect(ports[1]?.tryReserve(65_536)).toBeGreaterThan(0);
  });
});
