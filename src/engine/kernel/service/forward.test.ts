import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { RuleListener } from './forward.ts';

const LOOPBACK = 0x7f000001;
let sockets: Socket[];
let listener: RuleListener | null;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  sockets = [];
  listener = null;
});
afterEach(() => {
  listener?.close();
  for (const s of sockets) s.close();
  vi.useRealTimers();
});

const open = async (): Promise<Socket> => {
  const s = createSocket('udp4');
  sockets.push(s);
  s.bind(0, '127.0.0.1');
  await once(s, 'listening');
  return s;
};
const heard = async (s: Socket): Promise<{ text: string; port: number }> => {
  const [bytes, from] = (await once(s, 'message')) as [Buffer, { port: number }];
  return { text: bytes.toString(), port: from.port };
};

test('RFC 4787 REQ-5, REQ-6: a UDP client of a rule keeps its port for five idle minutes, counted from either side’s last datagram', async () => {
  const [guest, client, spare] = [await open(), await open(), await open()];
  const hostPort = spare.address().port;
  sockets.pop()?.close();
  const changed = new Promise<void>((resolve) => {
    listener = new RuleListener(
      { name: 'r', protocol: 'udp', hostIp: LOOPBACK, hostPort, guestPort: guest.address().port },
      () => ({ ip: LOOPBACK, live: [LOOPBACK] }),
      () => true,
      resolve,
    );
  });
  await changed;
  const ask = async (): Promise<number> => {
    client.send('ask', hostPort, '127.0.0.1');
    return (await heard(guest)).port;
  };
  const answer = async (port: number): Promise<string> => {
    guest.send('answer', port, '127.0.0.1');
    return (await heard(client)).text;
  };
  const port = await ask();
  vi.advanceTimersByTime(299_000);
  expect(await ask()).toBe(port);
  vi.advanceTimersByTime(299_000);
  expect(await answer(port)).toBe('answer');
  vi.advanceTimersByTime(299_000);
  expect(await answer(port)).toBe('answer');
  vi.advanceTimersByTime(301_000);
  expect(await ask()).not.toBe(port);
});
