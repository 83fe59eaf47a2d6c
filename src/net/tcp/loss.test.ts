/**
 * What is sent again to a guest that tells what it has received: traces on the manual clock of each way in which
 * something is found to be lost (RFC 8985).
 */
import { describe, expect, test } from 'vitest';
import { TcpRig } from '../../../test/sim/tcp-rig.ts';

/** `segments` of 1,460 bytes are under way to a guest. */
function sending(segments = 10): TcpRig {
  const r = new TcpRig().established({ sack: true });
  r.host(Buffer.alloc(1460 * segments));
  r.take();
  return r;
}
const at = (segment: number): number => 1 + 1460 * segment;
const sent = (segment: number, flags = 'P.'): string => `${flags} seq ${at(segment)} ack 1 len 1460`;
/**
 * The guest acknowledges all before one segment, and has these others: pairs, first and behind the last. What is sent
 * then.
 */
const has = (r: TcpRig, before: number, ...blocks: number[]): string[] => r.guest('.', { seq: 1, ack: at(before), blocks: blocks.map(at) }).take();
const counts = (r: TcpRig): Record<string, number> => {
  const { tailProbes = 0, timeouts = 0, retransmissions = 0 } = r.machine.stats();
  return { tailProbes, timeouts, retransmissions };
};
/** What comes next by itself, and when at the earliest and the latest (ms). */
function next(r: TcpRig, from: number, to: number): string[] {
  const after = r.next();
  expect(after).toBeGreaterThanOrEqual(from);
  expect(after).toBeLessThanOrEqual(to + 16);
  return r.take();
}

describe('a lost end (RFC 8985 7)', () => {
  test('after two round trips the last segment is sent again, and what the guest tells then shows the holes', () => {
    const r = sending();
    expect(next(r, 10, 10)).toEqual([sent(9)]);
    // one segment beyond the holes is enough, as it went so much later
    expect(has(r, 7, 9, 10)).toEqual([sent(7), sent(8)]);
    expect(has(r, 10)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 3 });
  });

  test('the acknowledgement of a single segment is waited for longer, as the guest may keep it back', () => {
    const r = sending(1);
    expect(next(r, 60, 60)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 1 });
  });

  test('the end of the last segment, when it lies in two chunks of memory', () => {
    const r = new TcpRig().established({ sack: true });
    // a small chunk has 4,096 bytes
    r.host(Buffer.alloc(4000)).host(Buffer.alloc(196));
    r.take();
    expect(next(r, 10, 60)).toEqual(['P. seq 4097 ack 1 len 100']);
  });

  test('a lone FIN is sent again; with payload before it, that is', () => {
    const r = sending(1);
    r.machine.onHostEnd(r.flow!, r.now);
    expect(r.take()).toEqual(['F. seq 1461 ack 1']);
    expect(next(r, 10, 60)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([]);
    expect(next(r, 10, 60)).toEqual(['F. seq 1461 ack 1']);
    // that is lost, too
    expect(next(r, 200, 200)).toEqual(['F. seq 1461 ack 1']);
    expect(counts(r)).toEqual({ tailProbes: 2, timeouts: 1, retransmissions: 3 });
  });

  test('what is sent or heard meanwhile moves the probe; a long round trip, too', () => {
    const r = new TcpRig().established({ sack: true }, 40);
    r.host(Buffer.alloc(2920));
    r.pass(60).host(Buffer.alloc(1000));
    expect(r.take()).toHaveLength(3);
    r.pass(60);
    expect(has(r, 0, 1, 2)).toEqual([]);
    expect(next(r, 80, 80)).toEqual([sent(0)]);
  });

  test('one probe, then it is the timeout', () => {
    const r = sending();
    expect(next(r, 10, 10)).toEqual([sent(9)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(next(r, 400, 400)).toEqual([sent(0)]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 2, retransmissions: 3 });
  });

  test('none into a closed window, nor to a guest that does not tell what it has', () => {
    const shut = sending();
    shut.guest('.', { seq: 1, ack: at(9), window: 0 });
    expect(next(shut, 200, 300)).toEqual(['. seq 13140 ack 1']);
    const silent = new TcpRig().established();
    silent.host(Buffer.alloc(2920)).take();
    expect(next(silent, 200, 200)).toEqual([sent(0)]);
  });

  test('a port without room is not taken for a guest that is silent', () => {
    const r = sending();
    r.port.space = 0;
    r.pass(100);
    expect([r.take(), counts(r)]).toEqual([[], { tailProbes: 0, timeouts: 0, retransmissions: 0 }]);
    r.port.space = 1 << 24;
    expect(next(r, 0, 20)).toEqual([sent(9)]);
  });
});

describe('a hole, too little beyond it to make its loss sure', () => {
  test('nothing more comes: it is sent again after two round trips', () => {
    const r = sending();
    expect(has(r, 0, 8, 9)).toEqual([]);
    expect(next(r, 10, 10)).toEqual([sent(0)]);
    // all before what came went earlier, and is lost; half of what was under way may be
    expect(has(r, 1, 8, 9)).toEqual([sent(1, '.'), sent(2, '.'), sent(3, '.'), sent(4)]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 5 });
  });
});

describe('what was sent again, and is lost again', () => {
  /** Segment 0 was lost and is sent again; all others are there. */
  const again = (): TcpRig => {
    const r = sending();
    expect(has(r, 0, 1, 4)).toEqual([sent(0)]);
    expect(has(r, 0, 1, 10)).toEqual([]);
    return r;
  };

  test('is found as soon as enough of what was sent later has come', () => {
    const r = again();
    r.host(Buffer.alloc(1460 * 4));
    expect(r.take()).toHaveLength(4);
    expect(has(r, 0, 1, 12)).toEqual([]);
    expect(has(r, 0, 1, 13)).toEqual([sent(0)]);
    expect(has(r, 14)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 0, timeouts: 0, retransmissions: 2 });
  });

  test('is found by what was sent again after it', () => {
    const r = sending(20);
    // 0 and 5 are lost
    expect(has(r, 0, 1, 5)).toEqual([sent(0)]);
    expect(has(r, 0, 1, 5, 6, 16)).toEqual([sent(5)]);
    expect(has(r, 0, 1, 20)).toEqual([sent(0)]);
    expect(counts(r)).toEqual({ tailProbes: 0, timeouts: 0, retransmissions: 3 });
  });

  test('is sent once more after two round trips of silence, when nothing was sent later', () => {
    const r = again();
    expect(next(r, 10, 60)).toEqual([sent(0)]);
    expect(has(r, 10)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 2 });
  });
});

describe('after a timeout', () => {
  test('what the guest has told is not sent again, and the rest in twice as much per round trip', () => {
    const r = sending();
    has(r, 0, 4, 5);
    expect(next(r, 10, 10)).toEqual([sent(0)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([sent(1, '.'), sent(2)]);
    expect(has(r, 3)).toEqual([sent(3), sent(5, '.'), sent(6, '.'), sent(7)]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 1, retransmissions: 8 });
  });

  test('after two in a row all of it is: the guest may have thrown it away (RFC 2018 8)', () => {
    const r = sending(4);
    has(r, 0, 1, 2);
    expect(next(r, 10, 10)).toEqual([sent(0)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(next(r, 400, 400)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([sent(1, '.'), sent(2)]);
  });

  test('what is lost once more is found as at any time', () => {
    const r = sending(12);
    expect(next(r, 10, 10)).toEqual([sent(11)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([sent(1, '.'), sent(2)]);
    // 1 and 2 went in one go; only 2 came
    expect(has(r, 1, 2, 3)).toEqual([sent(1)].concat(sent(3)));
  });
});
