import { expect, test } from 'vitest';
import { TcpScoreboard } from './scoreboard.ts';

test('any blocks in any order: the scoreboard equals a bit array', () => {
  let state = 1;
  const random = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  for (let round = 0; round < 300; round++) {
    const base = 0x7fffffc0; // the sequence numbers wrap within
    const board = new TcpScoreboard();
    const bits = new Array<boolean>(200).fill(false);
    let una = 0;
    for (let i = 0; i < 30; i++) {
      if (random(4) === 0) {
        una += random(10);
        board.release((base + una) | 0);
        bits.fill(false, 0, una);
      }
      const from = una + random(120 - Math.min(una, 110));
      const to = from + 1 + random(15);
      const news = bits.slice(from, to).includes(false);
      expect(board.add((base + from) | 0, (base + to) | 0)).toBe(news);
      bits.fill(true, from, to);
      expect(board.bytes).toBe(bits.filter(Boolean).length);
      const a = una + random(50);
      const b = a + random(60);
      expect(board.missing((base + a) | 0, (base + b) | 0)).toBe(bits.slice(a, b).filter((x) => !x).length);
      const hole = bits.indexOf(false, a);
      const holeEnd = bits.indexOf(true, hole);
      expect(board.hole((base + a) | 0, (base + 200) | 0)).toBe((base + hole) | 0);
      expect(board.holeEnd).toBe((base + (holeEnd < 0 ? 200 : holeEnd)) | 0);
      const enough = 1 + random(30);
      const lost = (board.lostBelow(enough, (base + una) | 0) - base) | 0;
      // every byte below it has at least so many received above it
      if (lost > una) expect(bits.slice(lost).filter(Boolean).length).toBeGreaterThanOrEqual(enough);
      else expect(board.bytes < enough || bits[una]).toBe(true);
    }
    board.clear();
    expect([board.empty, board.bytes]).toEqual([true, 0]);
  }
});

test('blocks beyond the limit are ignored', () => {
  const board = new TcpScoreboard();
  for (let i = 0; i < 100; i++) board.add(10 * i, 10 * i + 1);
  expect(board.bytes).toBe(64);
  expect(board.add(0, 1000)).toBe(true);
  expect(board.bytes).toBe(1000);
});
