/**
 * Loss recovery with selective acknowledgements: traces on a manual clock of each way a loss is detected (RFC 8985).
 */
import { describe, expect, test } from 'vitest';
import { TcpRig } from '../../../test/sim/tcp-rig.ts';

/** `segments` of 1,460 bytes are in flight to a guest. */
function sending(segments = 10): TcpRig {
  const r = new TcpRig().established({ sack: true });
  r.host(Buffer.alloc(1460 * segments));
  r.take();
  return r;
}
const at = (segment: number): number => 1 + 1460 * segment;
const sent = (segment: number, flags = 'P.'): string => `${flags} seq ${at(segment)} ack 1 len 1460`;
/**
 * The guest acknowledges all before segment `before`, and reports `blocks`: pairs, first and behind the last. Returns
 * what is sent in response.
 */
const has = (r: TcpRig, before: number, ...blocks: number[]): string[] => r.guest('.', { seq: 1, ack: at(before), blocks: blocks.map(at) }).take();
const counts = (r: TcpRig): Record<string, number> => {
  const { tailProbes = 0, timeouts = 0, retransmissions = 0 } = r.machine.stats();
  return { tailProbes, timeouts, retransmissions };
};
/** Returns what is sent next without an event; it must happen `from`–`to` ms from now. */
function next(r: TcpRig, from: number, to: number): string[] {
  const after = r.next();
  expect(after).toBeGreaterThanOrEqual(from);
  expect(after).toBeLessThanOrEqual(to + 16);
  return r.take();
}

describe('tail loss (RFC 8985 7)', () => {
  test('a probe after two round trips repeats the last segment, and its SACK shows the holes', () => {
    const r = sending();
    expect(next(r, 10, 10)).toEqual([sent(9)]);
    // one segment beyond the holes is enough, as it was sent much later
    expect(has(r, 7, 9, 10)).toEqual([sent(7), sent(8)]);
    expect(has(r, 10)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 3 });
  });

  test('a single segment is probed later, as the guest may delay its ACK', () => {
    const r = sending(1);
    expect(next(r, 60, 60)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 1 });
  });

  test('a last segment in two chunks of memory: only its end is repeated', () => {
    const r = new TcpRig().established({ sack: true });
    // a small chunk has 4,096 bytes
    r.host(Buffer.alloc(4000)).host(Buffer.alloc(196));
    r.take();
    expect(next(r, 10, 60)).toEqual(['P. seq 4097 ack 1 len 100']);
  });

  test('a FIN is repeated; with payload before it, that payload', () => {
    const r = sending(1);
    r.machine.onHostFin(r.flow!, r.now);
    expect(r.take()).toEqual(['F. seq 1461 ack 1']);
    expect(next(r, 10, 60)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([]);
    expect(next(r, 10, 60)).toEqual(['F. seq 1461 ack 1']);
    // this one is lost, too
    expect(next(r, 200, 200)).toEqual(['F. seq 1461 ack 1']);
    expect(counts(r)).toEqual({ tailProbes: 2, timeouts: 1, retransmissions: 3 });
  });

  test('segments sent or received meanwhile postpone the probe, and so does a long round trip', () => {
    const r = new TcpRig().established({ sack: true }, 40);
    r.host(Buffer.alloc(2920));
    r.pass(60).host(Buffer.alloc(1000));
    expect(r.take()).toHaveLength(3);
    r.pass(60);
    expect(has(r, 0, 1, 2)).toEqual([]);
    expect(next(r, 80, 80)).toEqual([sent(0)]);
  });

  test('one probe, then the timeout', () => {
    const r = sending();
    expect(next(r, 10, 10)).toEqual([sent(9)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(next(r, 400, 400)).toEqual([sent(0)]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 2, retransmissions: 3 });
  });

  test('no probe into a closed window, nor without selective acknowledgements', () => {
    const shut = sending();
    shut.guest('.', { seq: 1, ack: at(9), window: 0 });
    expect(next(shut, 200, 300)).toEqual(['. seq 13140 ack 1']);
    const silent = new TcpRig().established();
    silent.host(Buffer.alloc(2920)).take();
    expect(next(silent, 200, 200)).toEqual([sent(0)]);
  });

  test('a port without room is not treated as a silent guest', () => {
    const r = sending();
    r.port.space = 0;
    r.pass(100);
    expect([r.take(), counts(r)]).toEqual([[], { tailProbes: 0, timeouts: 0, retransmissions: 0 }]);
    r.port.space = 1 << 24;
    expect(next(r, 0, 20)).toEqual([sent(9)]);
  });
});

describe('a hole with too little received beyond it to prove its loss', () => {
  test('without further segments it is retransmitted after two round trips', () => {
    const r = sending();
    expect(has(r, 0, 8, 9)).toEqual([]);
    expect(next(r, 10, 10)).toEqual([sent(0)]);
    // everything sent before what was received is lost; half of what was in flight may be sent
    expect(has(r, 1, 8, 9)).toEqual([sent(1, '.'), sent(2, '.'), sent(3, '.'), sent(4)]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 5 });
  });
});

describe('a lost retransmission', () => {
  /** Segment 0 was lost and is retransmitted; all others were received. */
  const again = (): TcpRig => {
    const r = sending();
    expect(has(r, 0, 1, 4)).toEqual([sent(0)]);
    expect(has(r, 0, 1, 10)).toEqual([]);
    return r;
  };

  test('is detected once enough of what was sent later was received', () => {
    const r = again();
    r.host(Buffer.alloc(1460 * 4));
    expect(r.take()).toHaveLength(4);
    expect(has(r, 0, 1, 12)).toEqual([]);
    expect(has(r, 0, 1, 13)).toEqual([sent(0)]);
    expect(has(r, 14)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 0, timeouts: 0, retransmissions: 2 });
  });

  test('is detected by retransmissions that were sent after it', () => {
    const r = sending(20);
    // 0 and 5 are lost
    expect(has(r, 0, 1, 5)).toEqual([sent(0)]);
    expect(has(r, 0, 1, 5, 6, 16)).toEqual([sent(5)]);
    expect(has(r, 0, 1, 20)).toEqual([sent(0)]);
    expect(counts(r)).toEqual({ tailProbes: 0, timeouts: 0, retransmissions: 3 });
  });

  test('is repeated after two round trips of silence, if nothing was sent later', () => {
    const r = again();
    expect(next(r, 10, 60)).toEqual([sent(0)]);
    expect(has(r, 10)).toEqual([]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 0, retransmissions: 2 });
  });
});

describe('after a timeout', () => {
  test('reported segments are not retransmitted; the rest is, doubling per round trip', () => {
    const r = sending();
    has(r, 0, 4, 5);
    expect(next(r, 10, 10)).toEqual([sent(0)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([sent(1, '.'), sent(2)]);
    expect(has(r, 3)).toEqual([sent(3), sent(5, '.'), sent(6, '.'), sent(7)]);
    expect(counts(r)).toEqual({ tailProbes: 1, timeouts: 1, retransmissions: 8 });
  });

  test('after two in a row everything is retransmitted: the guest may have discarded it (RFC 2018 8)', () => {
    const r = sending(4);
    has(r, 0, 1, 2);
    expect(next(r, 10, 10)).toEqual([sent(0)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(next(r, 400, 400)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([sent(1, '.'), sent(2)]);
  });

  test('a lost retransmission is detected as usual', () => {
    const r = sending(12);
    expect(next(r, 10, 10)).toEqual([sent(11)]);
    expect(next(r, 200, 200)).toEqual([sent(0)]);
    expect(has(r, 1)).toEqual([sent(1, '.'), sent(2)]);
    // 1 and 2 were sent together; only 2 was received
    expect(has(r, 1, 2, 3)).toEqual([sent(1)].concat(sent(3)));
  });
});
