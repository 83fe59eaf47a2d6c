// Attempts of traffic: each calls `success` when an answer has come, and gives up after `giveUpMs`.
import dgram from 'node:dgram';
import net from 'node:net';

/** A new connection. */
export function tryTcp({ host, port }, giveUpMs, success) {
  const s = net.connect({ host, port });
  s.setTimeout(giveUpMs, () => s.destroy());
  s.on('error', () => {}); // only successes count
  s.once('data', () => {
    success();
    s.resetAndDestroy();
  });
}

/** A datagram from a new port. */
export function tryUdp({ host, port }, giveUpMs, success) {
  const s = dgram.createSocket('udp4');
  const end = setTimeout(() => s.close(), giveUpMs);
  s.on('error', () => {});
  s.once('message', () => {
    success();
    clearTimeout(end);
    s.close();
  });
  s.send('x', port, host, () => {});
}
