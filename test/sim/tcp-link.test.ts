/**
 * Two hosts on a link that delays, loses, reorders and duplicates segments. The TCP machine sends 2 MB to a guest that
 * keeps out-of-order data; the test compares every byte, and a table lists the time it takes.
 */
import { expect, test } from 'vitest';
import { seqDiff } from '../../src/wire/sequence.ts';
import { type Segment, TcpRig } from './tcp-rig.ts';

interface Link {
  /** Delay in one direction, ms; and the probability of each fault per segment. */
  delay: number;
  loss: number;
  reorder: number;
  duplicate: number;
}

const BYTES = 2_000_000;
/** A gigabit link: bytes per ms. */
const RATE = 125_000;

interface Ack {
  ack: number;
  blocks: number[];
}

/**
 * The SACK blocks of a guest for its out-of-order data: the range of the newest segment first, then others, at most
 * four (RFC 2018 4).
 */
function ranges(early: Map<number, Buffer>, newest: number): number[] {
  const all: [number, number][] = [];
  for (const [seq, data] of [...early].sort((a, b) => a[0] - b[0])) {
    const last = all.at(-1);
    if (last && last[1] >= seq) last[1] = Math.max(last[1], seq + data.length);
    else all.push([seq, seq + data.length]);
  }
  const first = all.findIndex(([from, to]) => from <= newest && newest < to);
  return [...(first < 0 ? [] : all.splice(first, 1)), ...all.reverse()].slice(0, 4).flat();
}

/**
 * Milliseconds of the machine's clock that the transfer took, and the number of retransmissions. With `answer`, the
 * host sends the next so many bytes only once the guest has all before.
 */
function transfer(
  link: Link,
  seed: number,
  sack: boolean,
  bytes = BYTES,
  answer = Number.POSITIVE_INFINITY,
): { ms: number; retransmitted: number; timeouts: number } {
  let state = seed;
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const rig = new TcpRig().established({ window: 8192, sack }, 2 * link.delay);
  const queue: { at: number; up: boolean; segment: Segment | Ack }[] = [];
  let free = rig.now;
  const put = (up: boolean, segment: Segment | Ack, bytes: number): void => {
    free = Math.max(free, rig.now) + bytes / RATE;
    if (random() < link.loss) return;
    const at = free + link.delay + (random() < link.reorder ? link.delay / 2 + 1 : 0);
    queue.push({ at, up, segment });
    if (random() < link.duplicate) queue.push({ at: at + 0.1, up, segment });
  };
  rig.onSegment = (s) => put(false, s, s.data.length + 58);
  const early = new Map<number, Buffer>();
  const got: Buffer[] = [];
  let next = 1;
  const receive = (s: Segment): void => {
    const seq = seqDiff(s.seq, rig.iss);
    if (s.data.length > 0) early.set(seq, s.data);
    for (;;) {
      const here = [...early].find(([q, d]) => q <= next && q + d.length > next);
      if (!here) break;
      got.push(here[1].subarray(next - here[0]));
      next = here[0] + here[1].length;
      early.delete(here[0]);
    }
    for (const [q, d] of early) if (q + d.length <= next) early.delete(q);
    put(true, { ack: next, blocks: sack && seq !== next ? ranges(early, seq) : [] }, 58);
  };
  const data = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) data[i] = (i * 31 + (i >> 9)) & 255;
  const begin = rig.now;
  for (let at = 0; next <= bytes; ) {
    if (at < bytes && (answer < bytes ? next > at : rig.flow!.unsent < 65_536)) {
      const n = Math.min(50_000, answer);
      rig.host(data.subarray(at, at + n));
      at += n;
      continue;
    }
    let soonest = -1;
    for (let i = 0; i < queue.length; i++) if (soonest < 0 || queue[i].at < queue[soonest].at) soonest = i;
    const due = soonest < 0 ? Number.POSITIVE_INFINITY : queue[soonest].at;
    const timer = rig.machine.nextAt();
    rig.now = Math.max(rig.now, Math.min(due, timer));
    if (timer <= due) rig.machine.run(rig.now);
    else {
      const [event] = queue.splice(soonest, 1);
      if (event!.up) rig.guest('.', { seq: 1, window: 8192, ...(event!.segment as Ack) });
      else receive(event!.segment as Segment);
    }
    if (rig.now - begin > 3_600_000) throw new Error('not done after an hour');
  }
  expect(Buffer.compare(Buffer.concat(got), data)).toBe(0);
  const { retransmissions, timeouts } = rig.machine.stats();
  return { ms: rig.now - begin, retransmitted: retransmissions!, timeouts: timeouts! };
}

/** The run with the median time of several. */
function median(seeds: number, run: (seed: number) => ReturnType<typeof transfer>): ReturnType<typeof transfer> {
  const all = Array.from({ length: seeds }, (_, i) => run(12_345 + 7919 * i)).sort((a, b) => a.ms - b.ms);
  return all[seeds >> 1];
}

test('B67: over a faulty link: byte for byte, at these speeds', () => {
  const rows: string[] = [];
  for (const [name, link] of Object.entries<Link>({
    'clean, 0.1 ms': { delay: 0.1, loss: 0, reorder: 0, duplicate: 0 },
    'clean, 10 ms': { delay: 10, loss: 0, reorder: 0, duplicate: 0 },
    '0.1 % loss, 0.1 ms': { delay: 0.1, loss: 0.001, reorder: 0, duplicate: 0 },
    '1 % loss, 0.1 ms': { delay: 0.1, loss: 0.01, reorder: 0, duplicate: 0 },
    '1 % loss, 10 ms': { delay: 10, loss: 0.01, reorder: 0, duplicate: 0 },
    '5 % loss, 0.1 ms': { delay: 0.1, loss: 0.05, reorder: 0, duplicate: 0 },
    '5 % loss, 1 ms': { delay: 1, loss: 0.05, reorder: 0, duplicate: 0 },
    '10 % loss, 1 ms': { delay: 1, loss: 0.1, reorder: 0, duplicate: 0 },
    '20 % loss, 1 ms': { delay: 1, loss: 0.2, reorder: 0, duplicate: 0 },
    '2 % reordered, 1 ms': { delay: 1, loss: 0, reorder: 0.02, duplicate: 0 },
    '2 % duplicated, 1 ms': { delay: 1, loss: 0, reorder: 0, duplicate: 0.02 },
    'all combined, 1 ms': { delay: 1, loss: 0.01, reorder: 0.01, duplicate: 0.01 },
  })) {
    const runs = [false, true].map((sack) => {
      const { ms, retransmitted } = median(sack && link.loss >= 0.05 ? 3 : 1, (seed) => transfer(link, seed, sack));
      return `${((BYTES * 8) / ms / 1000).toFixed(1).padStart(7)} Mbit/s  ${String(retransmitted).padStart(5)} retransmitted`;
    });
    rows.push(`${name.padEnd(22)} ${runs.join(' ')}`);
  }
  expect(`\n${rows.join('\n')}\n`).toMatchInlineSnapshot(`
    "
    clean, 0.1 ms            936.4 Mbit/s      0 retransmitted   936.4 Mbit/s      0 retransmitted
    clean, 10 ms             421.7 Mbit/s      0 retransmitted   421.7 Mbit/s      0 retransmitted
    0.1 % loss, 0.1 ms       919.4 Mbit/s      1 retransmitted   919.4 Mbit/s      1 retransmitted
    1 % loss, 0.1 ms         792.5 Mbit/s     19 retransmitted   893.4 Mbit/s     19 retransmitted
    1 % loss, 10 ms           40.9 Mbit/s     19 retransmitted   137.6 Mbit/s     19 retransmitted
    5 % loss, 0.1 ms          66.5 Mbit/s    689 retransmitted   857.5 Mbit/s     83 retransmitted
    5 % loss, 1 ms            55.7 Mbit/s    689 retransmitted   618.7 Mbit/s     83 retransmitted
    10 % loss, 1 ms            5.8 Mbit/s   1483 retransmitted   326.4 Mbit/s    139 retransmitted
    20 % loss, 1 ms            1.9 Mbit/s   1591 retransmitted   374.5 Mbit/s   1229 retransmitted
    2 % reordered, 1 ms      777.8 Mbit/s    191 retransmitted   763.3 Mbit/s     20 retransmitted
    2 % duplicated, 1 ms     858.1 Mbit/s      0 retransmitted   858.1 Mbit/s      0 retransmitted
    all combined, 1 ms       333.1 Mbit/s     19 retransmitted   665.1 Mbit/s     51 retransmitted
    "
  `);
});

test('B67: request and response over a lossy link take this long each; the last segments are lost as often as others', () => {
  const rows: string[] = [];
  for (const bytes of [1000, 20_000])
    for (const loss of [0.01, 0.05, 0.2]) {
      const count = 300;
      const runs = [false, true].map((sack) => {
        const { ms, retransmitted, timeouts } = transfer({ delay: 0.1, loss, reorder: 0, duplicate: 0 }, 12_345, sack, bytes * count, bytes);
        return `${(ms / count).toFixed(1).padStart(7)} ms ${String(retransmitted).padStart(5)} retransmitted ${String(timeouts).padStart(4)} timeouts`;
      });
      rows.push(`${String(bytes).padStart(6)} bytes, ${`${loss * 100}`.padStart(2)} % loss ${runs.join(' ')}`);
    }
  expect(`\n${rows.join('\n')}\n`).toMatchInlineSnapshot(`
    "
      1000 bytes,  1 % loss     5.6 ms    10 retransmitted    7 timeouts     1.0 ms     7 retransmitted    0 timeouts
      1000 bytes,  5 % loss    13.2 ms    21 retransmitted   18 timeouts     4.1 ms    20 retransmitted    1 timeouts
      1000 bytes, 20 % loss   143.3 ms   150 retransmitted  127 timeouts    73.8 ms   110 retransmitted   30 timeouts
     20000 bytes,  1 % loss    11.3 ms    54 retransmitted   15 timeouts     0.8 ms    46 retransmitted    0 timeouts
     20000 bytes,  5 % loss    43.0 ms   293 retransmitted   59 timeouts     2.7 ms   191 retransmitted    0 timeouts
     20000 bytes, 20 % loss   656.3 ms  1500 retransmitted  511 timeouts   259.9 ms  1178 retransmitted  127 timeouts
    "
  `);
});

test('B67: a link that loses, reorders and duplicates a fifth each: byte for byte, with and without SACK', () => {
  for (let seed = 1; seed <= 10; seed++) transfer({ delay: 1, loss: 0.2, reorder: 0.2, duplicate: 0.2 }, seed * 7919, seed % 2 === 0, 300_000);
});
