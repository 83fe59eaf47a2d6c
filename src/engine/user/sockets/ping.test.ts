import { expect, test } from 'vitest';
import { monotonicMs } from '../../../lib/clock.ts';
import { IcmpType, sealIcmp } from '../../../wire/icmp.ts';
import { PingSockets } from './ping.ts';

const LOOPBACK = 0x7f000001;

test.skipIf(!new PingSockets().allowed())('RFC 5508 REQ-2: an echo may be answered for 60 s, and no longer', async () => {
  const echoes = new PingSockets();
  const answered: number[] = [];
  const echo = (identifier: number): Promise<void> =>
    new Promise((resolve) => {
      const message = new Uint8Array(16);
      message[5] = identifier;
      sealIcmp(message, 0, message.length, IcmpType.echo, 0);
      const onReply = (): void => {
        answered.push(identifier);
        resolve();
      };
      expect(echoes.send(1, { who: `${identifier}`, destination: LOOPBACK, message, ttl: 64, whole: false }, { onReply, onLost: () => {} })).toBeNull();
    });
  const kept = echo(1);
  echoes.poll(monotonicMs() + 59_000);
  await kept;
  // the reply of this one finds its socket closed: the one after it is answered first
  void echo(2);
  echoes.poll(monotonicMs() + 60_001);
  await echo(3);
  await echo(4);
  expect(answered).toEqual([1, 3, 4]);
  echoes.close();
});
