import { expect, test } from 'vitest';
import { TcpResent } from './resent.ts';
import { TcpScoreboard } from './scoreboard.ts';

/** Sequence numbers that wrap within the test. */
const BASE = 0x7fffffc0;
const n = (x: number): number => (BASE + x) | 0;

function updated(ranges: [number, number, number][], received: [number, number][], una: number, sndMax: number, enough: number): [TcpResent, TcpScoreboard] {
  const board = new TcpScoreboard();
  const resent = new TcpResent();
  for (const [from, to, max] of ranges) resent.add(n(from), n(to), n(max));
  for (const [from, to] of received) board.add(n(from), n(to));
  resent.update(board, n(una), n(sndMax), enough);
  return [resent, board];
}

test.each<[string, [number, number, number][], [number, number][], number, number, string]>([
  ['nothing was sent later', [[0, 10, 50]], [[10, 50]], 0, 50, '0-10'],
  ['too little of what was sent later was received', [[0, 10, 50]], [[10, 60]], 0, 80, '0-10'],
  ['enough of it was received', [[0, 10, 50]], [[10, 70]], 0, 80, ''],
  ['all of it was received', [[0, 10, 50]], [[10, 52]], 0, 52, ''],
  [
    'later retransmissions count as well',
    [
      [0, 10, 50],
      [20, 40, 50],
    ],
    [[10, 50]],
    0,
    50,
    '',
  ],
  [
    'ranges before a lost one are lost',
    [
      [0, 10, 50],
      [20, 30, 50],
      [35, 40, 60],
    ],
    [
      [50, 60],
      [60, 90],
    ],
    0,
    90,
    '',
  ],
  ['part of a range: what lies below enough received bytes', [[0, 60, 100]], [[30, 55]], 0, 100, '30-60'],
  ['part of a range: what lies below all the rest', [[0, 20, 100]], [[15, 20]], 0, 100, ''],
  ['partly acknowledged', [[0, 20, 100]], [], 15, 100, '0-20'],
  ['completely acknowledged', [[0, 20, 100]], [], 20, 100, ''],
])('%s', (_name, ranges, received, una, sndMax, left) => {
  const [resent] = updated(ranges, received, una, sndMax, 20);
  const kept: string[] = [];
  for (let at = 0; at < sndMax; ) {
    const gap = (resent.gap(n(at), n(sndMax)) - BASE) | 0;
    if (gap > at) kept.push(`${at}-${gap}`);
    at = gap === sndMax ? sndMax : (resent.end - BASE) | 0;
  }
  expect(kept.join(' ')).toBe(left);
});

test('bytes in flight are those not received; adjacent ranges are merged', () => {
  const [resent, board] = updated(
    [
      [0, 10, 50],
      [10, 20, 50],
      [30, 40, 50],
    ],
    [[12, 18]],
    4,
    50,
    20,
  );
  expect(resent.inFlight(board, n(4))).toBe(6 + 4 + 10);
  for (let i = 0; !resent.full; i++) resent.add(n(100 + 2 * i), n(101 + 2 * i), n(1000));
  expect(resent.inFlight(board, n(4))).toBe(20 + 62);
});
