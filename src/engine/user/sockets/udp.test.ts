/** UDP flows on real sockets and the real clock, with short timeouts. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { monotonicMs } from '../../../lib/clock.ts';
import { type UdpFlow, UdpNat } from '../../../net/udp-nat.ts';
import { openUdp } from './udp.ts';

const LOOPBACK = 0x7f000001;
const GUEST = 0xc0a84002;
const IDLE = { general: 600, dns: 200 };

let far: Socket | null = null;
let nat: UdpNat<object> | null = null;
afterEach(() => {
  far?.close();
  nat?.close();
  far = nat = null;
});

test('RFC 4787 REQ-5: an idle flow expires, one to DNS servers only sooner; until then it keeps its port, and an answer refreshes it', async () => {
  const card = {};
  const heard: number[] = [];
  nat = new UdpNat<object>((flow: UdpFlow<object>) => {
    const onMessage = (_bytes: Uint8Array, ip: number): void => {
      const now = monotonicMs();
      if (nat?.peerOf(flow, ip, now) !== null) heard.push(now);
    };
    return openUdp({ onMessage, onLost: () => {}, onFailed: () => nat?.failed(flow) });
  }, IDLE);
  const outside = createSocket('udp4');
  far = outside;
  outside.bind(0, '127.0.0.1');
  await once(outside, 'listening');
  const port = outside.address().port;
  const send = (sourcePort: number, destinationPort: number): void => {
    const d = { source: GUEST, sourcePort, destination: LOOPBACK, destinationPort, payload: Uint8Array.of(1), ttl: 64, whole: false };
    expect(nat?.send(card, d, LOOPBACK, monotonicMs())).toBeNull();
  };
  const from = async (): Promise<number> => ((await once(outside, 'message')) as [Buffer, RemoteInfo])[1].port;
  /** Polls until so many flows are left, and does something before each time; when that was. */
  const left = async (flows: number, meanwhile: () => void): Promise<number> => {
    for (;;) {
      meanwhile();
      nat?.poll(monotonicMs());
      if (nat?.size === flows) return monotonicMs();
      await sleep(5);
    }
  };

  send(1000, port);
  const first = await from();
  const begun = monotonicMs();
  send(1001, 53);
  expect(nat.size).toBe(2);
  expect((await left(1, () => send(1000, port))) - begun).toBeGreaterThanOrEqual(IDLE.dns);

  // the other is as it was: the same port, to which the answer comes
  send(1000, port);
  expect(await from()).toBe(first);
  await sleep(IDLE.general / 2);
  outside.send('x', first, '127.0.0.1');
  while (heard.length === 0) await sleep(5);
  expect((await left(0, () => {})) - heard[0]).toBeGreaterThanOrEqual(IDLE.general);

  // and the port is closed: nothing listens there any more
  const probe = createSocket('udp4');
  try {
    probe.connect(first, '127.0.0.1');
    await once(probe, 'connect');
    probe.send('x');
    const [error] = (await once(probe, 'error')) as [NodeJS.ErrnoException];
    expect(error.code).toBe('ECONNREFUSED');
  } finally {
    probe.close();
  }
});
