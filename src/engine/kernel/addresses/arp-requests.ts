/**
 * Asks guests by ARP whether they use their addresses.
 *
 * Theory of operation: the request leaves by the guest's tap, so that no other guest hears it, and no rule about its
 * packets applies. Its sender is the gateway, which every guest answers (RFC 5227 allows an ordinary request; a probe
 * from 0.0.0.0 would look like a conflict to a guest that is about to take the address). The kernel's entry for the
 * address is deleted before, so what then appears in the ARP table is an answer: unicast replies create entries by
 * `arp_accept`. The guard lets only the owner of an address answer.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { sendFrame } from '../../../host/ffi/send-frame.ts';
import { deleteNeighbour, readNeighbours } from '../../../host/netlink/neighbours.ts';
import { monotonicMs } from '../../../lib/clock.ts';
import { gatewayOf, parseMac } from '../../../wire/address.ts';
import { ArpOp, arpFrame } from '../../../wire/arp.ts';
import type { DesiredNetwork } from '../../engine.ts';
import { BRIDGES, bridgeMac, tapName } from '../names.ts';

const POLL_MS = 10;

/** Sends a request to a guest. */
export function askGuest(network: DesiredNetwork, id: string, ip: number): void {
  const senderMac = parseMac(bridgeMac(network.name)) as number;
  sendFrame(tapName(id), arpFrame({ op: ArpOp.request, senderMac, senderIp: gatewayOf(network.subnet), targetMac: 0, targetIp: ip }));
}

/** Waits at most `waitMs`. The MAC addresses that answered, by address. */
export async function askGuests(network: DesiredNetwork, asked: readonly { id: string; ip: number }[], waitMs: number): Promise<Map<number, number>> {
  const dev = BRIDGES[network.name];
  for (const { id, ip } of asked) {
    deleteNeighbour(ip, dev);
    askGuest(network, id, ip);
  }
  const found = new Map<number, number>();
  for (const end = monotonicMs() + waitMs; ; await sleep(POLL_MS)) {
    for (const n of readNeighbours()) if (n.dev === dev && asked.some((a) => a.ip === n.ip)) found.set(n.ip, n.mac);
    if (found.size === asked.length || monotonicMs() >= end) return found;
  }
}
