/**
 * A capture of one card, before or after the translation of its MAC address (B93).
 *
 * Theory of operation: the tap shows the card's frames as the guest knows them: a packet socket gets what comes in
 * before tc's ingress, and what goes out behind tc's egress, so that a translation by tc lies beyond it. Without
 * `--mac` that is the outside as well. With it, the outside is what passes the bridge with the outside MAC, or to
 * everybody: there a promiscuous socket on the bridge is asked. Limits: frames that the guard drops are seen inside
 * only; outside (with `--mac`) drops of frames between other cards are counted too. A capture ends when the card is
 * unplugged or plugged in elsewhere.
 */
import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { interfaceIndex } from '../../host/ethernet.ts';
import { compileFilter, type HostFrame, PacketRing, SNAP_LENGTH } from '../../host/packet-ring.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { CapturedFrame } from '../../wire/pcapng.ts';
import type { Capture, CaptureSide, DesiredNic } from '../engine.ts';
import { tapName } from './names.ts';

const IDLE_MS = 10;
const PLACE_CHECK_MS = 500;

function masterOf(interfaceName: string): string | null {
  try {
    return basename(readlinkSync(`/sys/class/net/${interfaceName}/master`));
  } catch {
    return null; // in no bridge
  }
}

/** The MAC address at an offset of a frame. */
function macAt(data: Uint8Array, at: number): number {
  let mac = 0;
  for (let i = at; i < at + 6; i++) mac = mac * 256 + (data[i] as number);
  return mac;
}

/** The frame as one of this card's, seen from the bridge; null when it is not. */
export function outsideFrame(f: HostFrame, mac: number): CapturedFrame | null {
  if (f.data.length < 12) return null;
  const outbound = macAt(f.data, 6) === mac;
  const forAll = ((f.data[0] as number) & 1) === 1;
  return outbound || forAll || macAt(f.data, 0) === mac ? { time: f.time, outbound, data: f.data, length: f.length } : null;
}

/**
 * Begins a capture. Throws `network` when the card has no interface, `badValue` or `missingProgram` because of the
 * filter.
 */
export async function openCapture(nic: DesiredNic, side: CaptureSide, filter: string): Promise<Capture> {
  const tap = tapName(nic.id);
  const index = interfaceIndex(tap);
  const master = masterOf(tap);
  if (index === null) throw new AnkaError('network', `the card of ${nic.vmName} has no interface on this host`);
  const atBridge = side === 'outside' && nic.insideMac !== nic.outsideMac && master !== null;
  const where = atBridge ? (master as string) : tap;
  const ring = new PacketRing(where, { promiscuous: atBridge, filter: filter === '' ? [] : await compileFilter(where, filter) });
  let closed = false;
  let checked = Date.now();
  const inPlace = (): boolean => interfaceIndex(tap) === index && masterOf(tap) === master;
  return {
    description: `${side} of ${nic.vmName}'s card, at ${where}`,
    snapLength: SNAP_LENGTH,
    async next() {
      while (!closed) {
        const frames = ring.read();
        if (frames !== null) {
          const own = frames.flatMap((f) =>
            atBridge ? (outsideFrame(f, nic.outsideMac) ?? []) : { time: f.time, outbound: !f.sentByHost, data: f.data, length: f.length },
          );
          if (own.length > 0) return own;
        }
        if (Date.now() - checked >= PLACE_CHECK_MS) {
          checked = Date.now();
          if (!inPlace()) break;
        }
        await sleep(frames === null ? IDLE_MS : 0);
      }
      return null;
    },
    counts: () => ring.counts(),
    close() {
      closed = true;
      ring.close();
    },
  };
}
