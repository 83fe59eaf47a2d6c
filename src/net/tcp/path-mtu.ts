/**
 * The path behind a guest: ICMP "fragmentation needed" about our segments.
 *
 * Theory of operation. All segments leave with DF set, and as large as the card and the guest's MSS allow. A guest that
 * forwards them to a network with a smaller MTU reports that. An error counts if it quotes a segment that is in flight
 * (RFC 5927 4), and names an MTU below that segment's size. Then the connection's segments become smaller, and what is
 * in flight is sent again at once, as it was not lost to congestion (RFC 1191 6.4). An error without an MTU stands for
 * the next plateau below the segment's size (RFC 1191 7). Ten minutes later the former size is tried again.
 *
 * Limits. Per connection, as networks of different MTU may be behind one guest's address: each connection meets the
 * error itself. Segments do not become smaller than MIN_PATH_MTU: for a smaller one, DF is cleared, and routers
 * fragment. RFC 5927 7.2 would delay an error until its segment is lost; here only the guest itself can send one.
 *
 * Read first: RFC 1191, RFC 5927.
 */
import { seqDiff } from '../../wire/sequence.ts';
import type { TcpEmitter } from './emit.ts';
import type { NarrowPath, TcpFlow } from './flow.ts';
import type { LostSegment } from './interface.ts';

/** The smallest MTU to which segments are adapted, bytes; Linux has the same (`net.ipv4.route.min_pmtu`). */
const MIN_PATH_MTU = 552;
/** The smallest MTU of any link, bytes (RFC 791). */
const MIN_LINK_MTU = 68;
/** IPv4 and TCP header of a segment, bytes. */
const HEADERS = 40;
/** How long a reduction lasts, ms (RFC 1191 6.3). */
const LIFETIME = 600_000;
/** Usual MTUs, bytes (RFC 1191 7.1). */
const PLATEAUS = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, MIN_LINK_MTU];

/** The MTU that an error stands for. */
function mtuOf({ mtu, size }: LostSegment): number {
  return mtu >= MIN_LINK_MTU ? mtu : (PLATEAUS.find((p) => p < size) ?? MIN_LINK_MTU);
}

/** "Fragmentation needed" about a segment of an established flow. True when what is in flight must be sent again. */
export function narrowPath(flow: TcpFlow, lost: LostSegment, emit: TcpEmitter, now: number): boolean {
  if (seqDiff(lost.seq, flow.sndUna) < 0 || seqDiff(lost.seq, flow.sndMax) >= 0) return false;
  const mtu = mtuOf(lost);
  const full = flow.path?.mss ?? flow.mss;
  if (mtu >= lost.size || lost.size > full + HEADERS) return false;
  const mss = Math.min(flow.mss, Math.max(mtu, MIN_PATH_MTU) - HEADERS);
  const fragments = mtu < MIN_PATH_MTU || flow.path?.fragments === true;
  if (mss === flow.mss && fragments === (flow.path?.fragments ?? false)) return false;
  flow.path = { mss: full, fragments, until: now + LIFETIME };
  flow.mss = mss;
  emit.setDontFragment(flow, !fragments);
  return true;
}

/** Returns to the size before. */
export function widenPath(flow: TcpFlow, path: NarrowPath, emit: TcpEmitter): void {
  flow.path = null;
  flow.mss = path.mss;
  emit.setDontFragment(flow, true);
}
