import { describe, expect, test } from 'vitest';
import { TcpRig } from '../../../test/sim/tcp-rig.ts';

describe('payload from the guest', () => {
  test('a run of segments is one write and one ACK', () => {
    const r = new TcpRig().established();
    r.run([0, 1, 2, 3].map((i) => r.build('.', { seq: 1 + i * 1000, ack: 1, data: Buffer.alloc(1000, String(i)) })));
    expect(r.take()).toEqual(['write 4000', '. seq 1 ack 4001']);
    expect(r.written[0].toString()).toBe('0'.repeat(1000) + '1'.repeat(1000) + '2'.repeat(1000) + '3'.repeat(1000));
  });

  test('out-of-order payload is buffered and answered by duplicate ACKs; overlaps are trimmed', () => {
    const r = new TcpRig().established();
    r.guest('.', { seq: 4, data: 'def' });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
    r.run([0, 1, 2, 3, 4].map((i) => r.build('.', { seq: 1001 + i * 100, data: Buffer.alloc(100) })));
    expect(r.take()).toEqual(['. seq 1 ack 1', '. seq 1 ack 1', '. seq 1 ack 1']);
    r.guest('.', { seq: 9, data: 'ijkl' });
    r.guest('.', { seq: 6, data: 'fgh' });
    r.take();
    r.guest('.', { seq: 1, data: 'abcd' });
    expect(r.take()).toEqual(['write 4', 'write 4', 'write 4', '. seq 1 ack 13']);
    r.guest('.', { seq: 1, data: 'abcdef' });
    expect(r.take()).toEqual(['. seq 1 ack 13']);
    expect(Buffer.concat(r.written).toString()).toBe('abcdefghijkl');
    r.machine.cut(r.flow!, r.now);
    expect(r.flow!.owner.held).toBe(0);
  });

  test('selective acknowledgements report out-of-order payload: the latest block first, then the others (RFC 2018)', () => {
    const r = new TcpRig().established({ sack: true });
    r.guest('.', { seq: 11, data: 'bbbbb' });
    expect(r.take()).toEqual(['. seq 1 ack 1 sack 11 16']);
    r.guest('.', { seq: 31, data: 'ddddd' });
    expect(r.take()).toEqual(['. seq 1 ack 1 sack 31 36 11 16']);
    r.guest('.', { seq: 16, data: 'ccccc' });
    expect(r.take()).toEqual(['. seq 1 ack 1 sack 11 21 31 36']);
    for (const seq of [41, 51, 61, 71]) r.guest('.', { seq, data: 'e' });
    expect(r.take().at(-1)).toBe('. seq 1 ack 1 sack 71 72 11 21 31 36 41 42');
    r.guest('.', { seq: 1, data: 'aaaaaaaaaa' });
    expect(r.take()).toEqual(['write 10', 'write 10', '. seq 1 ack 21 sack 71 72 31 36 41 42 51 52']);
  });

  test('an out-of-order FIN with payload is remembered: it need not be retransmitted', () => {
    const r = new TcpRig().established({ sack: true });
    r.guest('F.', { seq: 6, ack: 1, data: 'last' });
    expect(r.take()).toEqual(['. seq 1 ack 1 sack 6 10', '. seq 1 ack 1 sack 6 10']);
    r.guest('.', { seq: 1, ack: 1, data: 'first' });
    expect(r.take()).toEqual(['write 5', 'write 4', 'end', '. seq 1 ack 11']);
  });

  test('so is an out-of-order FIN without payload; payload beyond the FIN is dropped', () => {
    const r = new TcpRig().established();
    r.guest('F.', { seq: 4, ack: 1 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
    r.guest('.', { seq: 1, ack: 1, data: 'abc' });
    expect(r.take()).toEqual(['write 3', 'end', '. seq 1 ack 5']);
    r.guest('.', { seq: 5, ack: 1, data: 'more' });
    expect(r.take()).toEqual(['. seq 1 ack 5']);
  });

  test('a keep-alive probe is answered', () => {
    const r = new TcpRig().established();
    r.guest('.', { seq: 0, ack: 1 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
  });

  test('the sequence number wraps around', () => {
    const r = new TcpRig({ isn: -3 }).established();
    r.guest('.', { seq: 1, data: 'across the end' });
    expect(r.take()).toEqual(['write 14', '. seq 1 ack 15']);
  });

  test('a blocked host socket closes the window; draining it sends a window update', () => {
    const r = new TcpRig({ mtu: 65_520 }).established({ mss: 60_000 });
    r.stuck = true;
    let sent = 0;
    for (let i = 0; i < 200; i++) {
      r.guest('.', { seq: 1 + sent, data: Buffer.alloc(60_000) });
      if (!r.log.some((l) => l.startsWith('write'))) break;
      sent += 60_000;
      r.take();
    }
    expect(sent).toBeGreaterThan(4_000_000);
    expect(sent).toBeLessThan(4_400_000);
    r.take();
    const flow = r.flow!;
    flow.owner.queued -= flow.queued;
    flow.queued = 0;
    r.machine.onDrained(flow, r.now);
    expect(r.take()).toEqual([expect.stringMatching(/^\. seq 1 ack \d+$/)]);
  });
});
