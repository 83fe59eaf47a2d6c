/** Sends one Ethernet frame out of an interface, by a packet socket (packet(7)). */
import { closeSync } from 'node:fs';
import { interfaceIndex } from '../ethernet.ts';
import { declareOnce } from './koffi.ts';

const AF_PACKET = 17;
const SOCK_RAW_CLOEXEC = 0x80003;

interface SendCalls {
  socket(domain: number, type: number, protocol: number): number;
  sendto(fd: number, bytes: Uint8Array, length: number, flags: number, address: Uint8Array, addressLength: number): number;
}

const calls = declareOnce(
  ({ func }): SendCalls => ({
    socket: func('int socket(int, int, int)'),
    sendto: func('long sendto(int, uint8_t *, size_t, int, uint8_t *, uint32_t)'),
  }),
);

/** As on the wire, a frame that cannot be sent is lost. Needs CAP_NET_RAW. */
export function sendFrame(dev: string, frame: Uint8Array): void {
  const index = interfaceIndex(dev);
  if (index === null) return;
  const fd = calls().socket(AF_PACKET, SOCK_RAW_CLOEXEC, 0);
  if (fd < 0) return;
  const address = Buffer.alloc(20); // struct sockaddr_ll
  address.writeUInt16LE(AF_PACKET, 0);
  address.writeInt32LE(index, 4);
  calls().sendto(fd, frame, frame.length, 0, address, address.length);
  closeSync(fd);
}
