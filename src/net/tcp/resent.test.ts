import { expect, test } from 'vitest';
import { TcpResent } from './resent.ts';
import { TcpScoreboard } from './scoreboard.ts';

/** Bytes as small numbers that go round within. */
const BASE = 0x7fffffc0;
const n = (x: number): number => (BASE + x) | 0;

function judged(stretches: [number, number, number][], received: [number, number][], una: number, sndMax: number, enough: number): [TcpResent, TcpScoreboard] {
  const board = new TcpScoreboard();
  const resent = new TcpResent();
  for (const [from, to, max] of stretches) resent.add(n(from), n(to), n(max));
  for (const [from, to] of received) board.add(n(from), n(to));
  resent.judge(board, n(una), n(sndMax), enough);
  return [resent, board];
}

test.each<[string, [number, number, number][], [number, number][], number, number, string]>([
  ['nothing was sent later', [[0, 10, 50]], [[10, 50]], 0, 50, '0-10'],
  ['too little has come that was sent later', [[0, 10, 50]], [[10, 60]], 0, 80, '0-10'],
  ['enough has', [[0, 10, 50]], [[10, 70]], 0, 80, ''],
  ['all has', [[0, 10, 50]], [[10, 52]], 0, 52, ''],
  [
    'what was sent again later counts as well',
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
    'those before one that is lost are lost',
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
  ['of one stretch, what lies below enough', [[0, 60, 100]], [[30, 55]], 0, 100, '30-60'],
  ['of one stretch, what lies below all the rest', [[0, 20, 100]], [[15, 20]], 0, 100, ''],
  ['received by and by', [[0, 20, 100]], [], 15, 100, '0-20'],
  ['wholly received', [[0, 20, 100]], [], 20, 100, ''],
])('%s', (_name, stretches, received, una, sndMax, left) => {
  const [resent] = judged(stretches, received, una, sndMax, 20);
  const kept: string[] = [];
  for (let at = 0; at < sndMax; ) {
    const gap = (resent.gap(n(at), n(sndMax)) - BASE) | 0;
    if (gap > at) kept.push(`${at}-${gap}`);
    at = gap === sndMax ? sndMax : (resent.end - BASE) | 0;
  }
  expect(kept.join(' ')).toBe(left);
});

test('bytes under way are those that have not come; stretches that follow each other are one', () => {
  const [resent, board] = judged(
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
  expect(resent.underWay(board, n(4))).toBe(6 + 4 + 10);
  for (let i = 0; !resent.full; i++) resent.add(n(100 + 2 * i), n(101 + 2 * i), n(1000));
  expect(resent.underWay(board, n(4))).toBe(20 + 62);
});
