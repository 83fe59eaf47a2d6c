import { expect, test } from 'vitest';
import { DnsUpstream } from './dns-upstream.ts';

/** A query header with this id; nobody answers it. */
const query = (id: number): Uint8Array => new Uint8Array([id >> 8, id & 255, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

test('closes whichever of its UDP sockets are in use, and can be used again', () => {
  const upstream = new DnsUpstream('127.0.0.1', { onAnswer: () => {}, onLost: () => {} });
  // the random number chooses the socket: the first ones stay unused
  for (const random of [5, 7]) upstream.ask(query(random), 'udp', random);
  expect(() => upstream.close()).not.toThrow();
  upstream.ask(query(1), 'udp', 3);
  expect(() => upstream.close()).not.toThrow();
});
