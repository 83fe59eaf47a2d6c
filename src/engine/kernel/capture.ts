/**
 * A capture of one NIC, inside or outside of the translation of its MAC address (B93).
 *
 * Theory of operation: the tap shows the NIC's frames as the guest sees them. A packet socket receives inbound frames
 * before tc's ingress and outbound ones after tc's egress, so translation by tc is not visible. Without `--mac`, inside
 * and outside are the same. With `--mac`, the outside is what passes the bridge from or to the outside MAC, or to a
 * group. It is captured by a promiscuous socket on the bridge.
 *
 * Limits: frames that the guard drops are captured inside only. Outside, with `--mac`, drops of frames between other
 * NICs are counted too. A capture ends when the NIC is detached or attached elsewhere.
 */
import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { interfaceIndex } from '../../host/ethernet.ts';
import { compileFilter, type HostFrame, PacketRing, SNAP_LENGTH } from '../../host/packet-ring.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { CapturedFrame } from '../../wire/pcapng.ts';
import type { Capture, CaptureSide, DesiredNic } from '../engine.ts';
import { tapName } from './names.ts';

const IDLE_MS = 10;
/** Between two checks that the NIC is still attached where it was. */
const ATTACHED_CHECK_MS = 500;

function masterOf(interfaceName: string): string | null {
  try {
    return basename(readlinkSync(`/sys/class/net/${interfaceName}/master`));
  } catch {
    return null; // it is in no bridge
  }
}

/** The MAC address at an offset of a frame. */
function macAt(data: Uint8Array, at: number): number {
  let mac = 0;
  for (let i = at; i < at + 6; i++) mac = mac * 256 + (data[i] as number);
  return mac;
}

/** A frame captured at the bridge, if it is from or to this NIC; else null. */
export function outsideFrame(f: HostFrame, mac: number): CapturedFrame | null {
  if (f.data.length < 12) return null;
  const outbound = macAt(f.data, 6) === mac;
  const toGroup = ((f.data[0] as number) & 1) === 1;
  return outbound || toGroup || macAt(f.data, 0) === mac ? { time: f.time, outbound, data: f.data, length: f.length } : null;
}

/** Starts a capture. Throws `network` when the NIC has no interface; `badValue` or `missingProgram` for the filter. */
export async function openCapture(nic: DesiredNic, side: CaptureSide, filter: string): Promise<Capture> {
  const tap = tapName(nic.id);
  const index = interfaceIndex(tap);
  const master = masterOf(tap);
  if (index === null) throw new AnkaError('network', `the network card of ${nic.vmName} has no interface on this host`);
  const atBridge = side === 'outside' && nic.insideMac !== nic.outsideMac && master !== null;
  const device = atBridge ? (master as string) : tap;
  const ring = new PacketRing(device, { promiscuous: atBridge, filter: filter === '' ? [] : await compileFilter(device, filter) });
  let closed = false;
  let checkedAt = monotonicMs();
  const isUnchanged = (): boolean => interfaceIndex(tap) === index && masterOf(tap) === master;
  return {
    description: `${side} of ${nic.vmName}'s card, at ${device}`,
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
        if (monotonicMs() - checkedAt >= ATTACHED_CHECK_MS) {
          checkedAt = monotonicMs();
          if (!isUnchanged()) break;
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
