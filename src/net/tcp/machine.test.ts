import { describe, expect, test } from 'vitest';
import { FakePort, readFrames, TcpRig } from '../../../test/sim/tcp-rig.ts';

const KB = Buffer.alloc(1024, 'x');

test('connections whose peers do not read do not block the others', () => {
  const r = new TcpRig({ mtu: 65_520 });
  r.stuck = true;
  for (let f = 0; f < 12; f++) {
    r.established({ mss: 60_000, guestPort: 41_000 + f });
    for (let i = 0; i < 80; i++) r.guest('.', { seq: 1 + i * 60_000, data: Buffer.alloc(60_000), guestPort: 41_000 + f });
  }
  expect(r.machine.stats()['queued']).toBeLessThan(33 << 20);
  r.established({ guestPort: 42_000 });
  r.guest('P.', { seq: 1, data: 'GET /', guestPort: 42_000 });
  expect(r.take()).toEqual(['write 5', '. seq 1 ack 6']);
});

describe('isolation between guests', () => {
  const pair = (limits: ConstructorParameters<typeof TcpRig>[0]): { r: TcpRig; by: FakePort } => {
    const r = new TcpRig(limits);
    const by = new FakePort(r.memory, 1, 1500, (start, end) => {
      for (const s of readFrames(r.memory, start, end)) r.log.push(`to the other guest: ${r.show(s)}`);
    });
    return { r, by };
  };

  test('send memory: a guest gets as much as is still free, never all', () => {
    const { r, by } = pair({ limits: { sendMemory: 8 << 20 } });
    for (let i = 0; i < 40; i++) {
      r.established({ guestPort: 1000 + i });
      for (let sent = 0; sent < 1 << 20 && r.flow?.reading; sent += 65_536) r.host(Buffer.alloc(65_536));
    }
    r.take();
    expect(r.machine.pool.free).toBe(4 << 20);
    r.established({ by });
    r.host(KB);
    expect(r.take()).toEqual(['to the other guest: P. seq 1 ack 1 len 1024']);
  });

  test('limits of flows and half-open connections are per guest', () => {
    const { r, by } = pair({ limits: { flows: 3, connecting: 2 } });
    for (let i = 0; i < 3; i++) r.established({ guestPort: 1000 + i });
    r.guest('S', { guestPort: 1003 });
    expect(r.take()).toEqual([expect.stringMatching(/^R\./)]);
    r.established({ by });
    for (let i = 0; i < 5; i++) r.guest('S', { guestPort: 2000 + i });
    r.take();
    r.guest('S', { by, guestPort: 3000 });
    expect(r.take()).toEqual(['connect 198.51.100.1:80']);
    expect(r.machine.stats()).toMatchObject({ flows: 5, connecting: 1 });
  });
});
