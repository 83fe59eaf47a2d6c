/**
 * Asks a network by ARP who has an address.
 *
 * Theory of operation: what the kernel remembers of the address is forgotten, a datagram to its discard port makes the
 * kernel ask, and the answer stands in the ARP table. Limits: one question, as the kernel asks again only after a
 * second; a guest that answers later than `waitMs` is not noticed.
 */
import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatIpv4 } from '../wire/address.ts';
import { forgetNeighbour, readNeighbours } from './netlink/neighbours.ts';

const LOOK_MS = 10;
const DISCARD_PORT = 9;

/** The MAC address that answers for an address on an interface of ours, or null after `waitMs` of silence. */
export async function probeAddress(ip: number, dev: string, waitMs = 200): Promise<number | null> {
  const text = formatIpv4(ip);
  forgetNeighbour(ip, dev);
  const socket = createSocket('udp4');
  socket.on('error', () => {}); // no route to it: nobody will answer
  socket.send('', DISCARD_PORT, text, () => {});
  try {
    for (const end = Date.now() + waitMs; ; await sleep(LOOK_MS)) {
      const found = (await readNeighbours()).find((n) => n.ip === ip && n.dev === dev);
      if (found) return found.mac;
      if (Date.now() >= end) return null;
    }
  } finally {
    socket.close();
  }
}
