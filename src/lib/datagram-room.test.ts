import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { sendDatagram } from './datagram-room.ts';

test('a datagram to port 0, or by a closed socket, is dropped without an exception', async () => {
  const socket = createSocket('udp4');
  expect(sendDatagram(socket, Buffer.from('x'), 0, '127.0.0.1')).toBe(false);
  socket.close();
  await once(socket, 'close');
  const errors: string[] = [];
  expect(sendDatagram(socket, Buffer.from('x'), 9, '127.0.0.1', (e) => errors.push((e as NodeJS.ErrnoException).code ?? ''))).toBe(false);
  expect(errors).toEqual(['ERR_SOCKET_DGRAM_NOT_RUNNING']);
});
