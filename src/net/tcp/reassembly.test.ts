import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PacketMemory } from '../memory/packet-memory.ts';
import { ChunkPool } from './chunks.ts';
import { TcpReassembly } from './reassembly.ts';

const memory = new PacketMemory(32 << 20);
const pool = new ChunkPool(memory, 16 << 20);
const source = memory.alloc(4096);

test('SACK blocks are exactly the kept ranges, the newest first; taking them returns each byte once', () => {
  const pieces = fc.array(fc.record({ at: fc.integer({ min: 1, max: 400 }), length: fc.integer({ min: 1, max: 60 }) }), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(pieces, fc.constantFrom(1, 0x7fffff00, -200), (all, first) => {
      const account = { held: 0 };
      const r = new TcpReassembly(pool, account);
      const have = new Set<number>();
      for (const { at, length } of all) {
        r.add((first + at) | 0, source, length);
        for (let i = at; i < at + length; i++) have.add(i);
        const edges = new Int32Array(200);
        const n = r.sackBlocks(edges);
        const reported = new Set<number>();
        for (let b = 0; b < n; b++) for (let q = (edges[2 * b] - first) | 0; q < ((edges[2 * b + 1] - first) | 0); q++) reported.add(q);
        expect(reported).toEqual(have);
        expect([((edges[0] - first) | 0) <= at, ((edges[1] - first) | 0) > at]).toEqual([true, true]);
        expect(r.sackBlocks(new Int32Array(8))).toBe(Math.min(n, 4));
      }
      const lowest = Math.min(...have);
      let next = lowest;
      for (let n = r.take((first + next) | 0); n > 0; n = r.take((first + next) | 0)) next += n;
      for (let q = lowest; q < next; q++) expect(have.has(q)).toBe(true);
      expect(have.has(next)).toBe(false);
      r.clear();
      expect(account.held).toBe(0);
    }),
    { numRuns: 50 },
  );
});
