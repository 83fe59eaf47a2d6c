/**
 * Resolves an address by ARP now.
 *
 * Theory of operation: the kernel's entry for the address is deleted, a datagram to its discard port makes the kernel
 * send a request, and the answer appears in the ARP table.
 *
 * Limits: one request, as the kernel retransmits after a second; an answer later than `waitMs` is missed.
 */
import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from '../lib/clock.ts';
import { formatIpv4 } from '../wire/address.ts';
import { deleteNeighbour, readNeighbours } from './netlink/neighbours.ts';

const POLL_MS = 10;
const DISCARD_PORT = 9;

/** The MAC address that answers for an address on one of our interfaces; null if none does within `waitMs`. */
export async function probeAddress(ip: number, dev: string, waitMs = 200): Promise<number | null> {
  const text = formatIpv4(ip);
  deleteNeighbour(ip, dev);
  const socket = createSocket('udp4');
  socket.on('error', () => {}); // no route to it: no answer will come
  socket.send('', DISCARD_PORT, text, () => {});
  try {
    for (const end = monotonicMs() + waitMs; ; await sleep(POLL_MS)) {
      const found = readNeighbours().find((n) => n.ip === ip && n.dev === dev);
      if (found) return found.mac;
      if (monotonicMs() >= end) return null;
    }
  } finally {
    socket.close();
  }
}
