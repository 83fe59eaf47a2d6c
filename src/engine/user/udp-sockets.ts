/**
 * Host sockets of guests' UDP flows (net/nat/udp).
 *
 * Theory of operation: one unconnected socket per flow, on a port that the kernel chooses. Bytes are copied on their way out, since the kernel may take them
 * later than the call. Limits: errors by ICMP are not told of by unconnected sockets; a guest that asks a closed port outside gets silence.
 */
import { createSocket, type Socket } from 'node:dgram';
import type { HostDatagrams } from '../../net/nat/udp.ts';
import { formatIpv4, parseIpv4 } from '../../wire/address.ts';

/** Addresses are numbers already: there is nothing to look up, and nothing to wait for. */
const noLookup = (host: string, _options: unknown, callback: (error: null, address: string, family: number) => void): void => callback(null, host, 4);

/** A bound socket. `onMessage` gets what comes in; `onFailed` tells that it is of no use any more. */
export function openUdp(onMessage: (bytes: Uint8Array, ip: number, port: number) => void, onFailed: () => void): HostDatagrams {
  const socket: Socket = createSocket({ type: 'udp4', lookup: noLookup as never });
  let closed = false;
  const close = (): void => {
    if (closed) return;
    closed = true;
    socket.close();
  };
  socket.on('message', (bytes, from) => onMessage(bytes, parseIpv4(from.address) ?? 0, from.port));
  socket.on('error', () => {
    close();
    onFailed();
  });
  socket.bind(0);
  return {
    send(bytes, ip, port) {
      if (!closed) socket.send(Buffer.from(bytes), port, formatIpv4(ip), () => {}); // refusals of the kernel (no route, …) are losses, as on any wire
    },
    close,
  };
}
