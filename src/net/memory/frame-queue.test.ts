import fc from 'fast-check';
import { expect, test } from 'vitest';
import { FrameQueue } from './frame-queue.ts';

test('bytes come out complete and in order, for any sizes and any speed of the reader', () => {
  const op = fc.oneof(
    fc.record({ kind: fc.constant('put' as const), n: fc.integer({ min: 1, max: 60 }), unused: fc.integer({ min: 0, max: 20 }), own: fc.boolean() }),
    fc.record({ kind: fc.constant('take' as const) }),
    fc.record({ kind: fc.constant('done' as const) }),
  );
  fc.assert(
    fc.property(fc.array(op, { maxLength: 200 }), (ops) => {
      const memory = new Uint8Array(16 + 100);
      const q = new FrameQueue(16, 100);
      let written = 0;
      let read = 0;
      let taken: [offset: number, length: number][] = [];
      /** Of each byte that is not read yet: whether it is the owner's. */
      const owned: boolean[] = [];
      const check = () => {
        for (const [o, n] of taken)
          for (let i = 0; i < n; i++) {
            expect(memory[o + i]).toBe(read++ & 255);
            owned.shift();
          }
        taken = [];
      };
      for (const o of ops) {
        if (o.kind === 'put') {
          const room = q.room();
          const at = q.reserve(o.n + o.unused);
          expect(at >= 0).toBe(room >= o.n + o.unused);
          if (at < 0) continue;
          for (let i = 0; i < o.n; i++) memory[at + i] = written++ & 255;
          q.commit(o.n, o.own);
          owned.push(...Array.from({ length: o.n }, () => o.own));
        } else if (o.kind === 'take') q.next((offset, length) => taken.push([offset, length]));
        else {
          check(); // bytes stay as they were until they are done
          q.done();
          expect(q.used).toBe(written - read);
        }
        expect(q.own).toBe(owned.filter(Boolean).length);
      }
      while (q.next((offset, length) => taken.push([offset, length])));
      check();
      q.done();
      expect([read, q.used, q.own]).toEqual([written, 0, 0]);
      expect(q.room()).toBe(100);
    }),
  );
});
