import { describe, expect, test } from 'vitest';
import { TcpRig } from '../../../test/sim/tcp-rig.ts';
import { readSack } from '../../wire/tcp.ts';

const KB = Buffer.alloc(1024, 'x');

describe('payload to the guest', () => {
  test('it is cut to the MSS, the last segment has PSH, and it is kept until acknowledged', () => {
    const r = new TcpRig().established();
    r.host(Buffer.alloc(3000));
    expect(r.take()).toEqual(['. seq 1 ack 1 len 1460', '. seq 1461 ack 1 len 1460', 'P. seq 2921 ack 1 len 80']);
    expect(r.flow!.send.length).toBe(3000);
    r.guest('.', { seq: 1, ack: 1461 });
    expect(r.flow!.send.length).toBe(1540);
    r.guest('.', { seq: 1, ack: 3001 });
    expect([r.flow!.send.length, r.take()]).toEqual([0, []]);
  });

  test("the guest's window is respected", () => {
    const r = new TcpRig().established({ windowScale: 0, window: 2000 });
    r.host(Buffer.alloc(5000));
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
    r.guest('.', { seq: 1, ack: 1461, window: 3000 });
    expect(r.take()).toEqual(['. seq 1461 ack 1 len 1460', 'P. seq 2921 ack 1 len 1460']);
  });

  test('the window of a retransmitted segment counts if it acknowledges new data: the window is never exceeded', () => {
    const r = new TcpRig().established({ window: 100 });
    r.guest('.', { seq: 1001, data: KB, window: 100, ack: 1 }); // out of order: a newer sequence number
    r.host(Buffer.alloc(20_000));
    r.take();
    r.guest('.', { seq: 1, data: 'x', window: 10, ack: 1 + 4 * 1460 });
    expect(r.take()).toEqual(['write 1', '. seq 7121 ack 2']);
  });

  test('a closed window is probed with backoff until it opens', () => {
    const r = new TcpRig().established({ windowScale: 0, window: 0 });
    r.host(KB);
    expect(r.take()).toEqual([]);
    const first = r.next();
    expect(r.take()).toEqual(['. seq 0 ack 1']);
    r.guest('.', { seq: 1, ack: 1, window: 0 });
    const second = r.next();
    expect(r.take()).toEqual(['. seq 0 ack 1']);
    expect(second).toBeGreaterThan(first * 1.8);
    r.guest('.', { seq: 1, ack: 1, window: 65535 });
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 1024']);
  });

  test('three duplicate ACKs retransmit the oldest segment, a partial ACK the next one (RFC 6582)', () => {
    const r = new TcpRig().established();
    r.host(Buffer.alloc(14_600));
    expect(r.take().length).toBe(10);
    for (let i = 0; i < 3; i++) r.guest('.', { seq: 1, ack: 1 });
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
    r.guest('.', { seq: 1, ack: 1 });
    expect(r.take()).toEqual([]);
    r.guest('.', { seq: 1, ack: 4381 });
    expect(r.take()).toEqual(['P. seq 4381 ack 1 len 1460']);
    r.guest('.', { seq: 1, ack: 14_601 });
    expect(r.take()).toEqual([]);
  });

  describe('a guest with selective acknowledgements (RFC 2018, RFC 6675)', () => {
    /** Ten segments of 1,460 bytes are in flight. */
    const sending = (): TcpRig => {
      const r = new TcpRig().established({ sack: true });
      r.host(Buffer.alloc(14_600));
      r.take();
      return r;
    };
    const at = (segment: number): number => 1 + 1460 * segment;

    test('only the holes are retransmitted, each once', () => {
      const r = sending();
      // 0, 3 and 4 are lost
      for (const [from, to] of [
        [1, 2],
        [1, 3],
        [5, 6],
        [5, 7],
      ] as const)
        r.guest('.', { seq: 1, ack: 1, blocks: from === 5 ? [at(5), at(to), at(1), at(3)] : [at(from), at(to)] });
      expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
      r.guest('.', { seq: 1, ack: 1, blocks: [at(5), at(8), at(1), at(3)] });
      expect(r.take()).toEqual([`. seq ${at(3)} ack 1 len 1460`, `P. seq ${at(4)} ack 1 len 1460`]);
      r.guest('.', { seq: 1, ack: 1, blocks: [at(5), at(10), at(1), at(3)] });
      r.guest('.', { seq: 1, ack: at(3), blocks: [at(5), at(10)] });
      expect(r.take()).toEqual([]);
      r.guest('.', { seq: 1, ack: at(10) });
      expect([r.take(), r.machine.stats()['retransmissions']]).toEqual([[], 3]);
    });

    test('duplicate ACKs that report nothing new do not indicate loss', () => {
      const r = sending();
      for (let i = 0; i < 10; i++) r.guest('.', { seq: 1, ack: 1 });
      for (let i = 0; i < 10; i++) r.guest('.', { seq: 1, ack: 1, blocks: [at(4), at(5)] });
      expect(r.take()).toEqual([]);
    });

    test('invalid blocks are ignored: never sent, or below the cumulative acknowledgement', () => {
      const r = sending();
      for (const blocks of [
        [at(10), at(20)],
        [-5000, -100],
        [at(5), at(4)],
        [at(0), at(3)],
      ])
        for (let i = 0; i < 5; i++) r.guest('.', { seq: 1, ack: 1, blocks });
      expect(r.take()).toEqual([]);
      r.guest('.', { seq: 1, ack: at(10) });
      expect(r.flow!.send.length).toBe(0);
    });

    test('when fewer than three segments follow the hole, all of them prove the loss', () => {
      const r = new TcpRig().established({ sack: true });
      r.host(Buffer.alloc(2920));
      r.take();
      r.guest('.', { seq: 1, ack: 1, blocks: [at(1), at(2)] });
      expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
    });

    test('a SACK block among other options, and a truncated one', () => {
      const u8 = Buffer.alloc(40);
      const view = new DataView(u8.buffer, u8.byteOffset);
      const edges = new Int32Array(8);
      u8[12] = 9 << 4;
      u8.set([1, 8, 2, 5, 10, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0], 20);
      expect([readSack(u8, view, 0, edges), edges[0], edges[1]]).toEqual([1, 7, 9]);
      u8[12] = 8 << 4;
      expect(readSack(u8, view, 0, edges)).toBe(0);
    });
  });

  test('a timeout restarts at the oldest byte with one segment, and backs off', () => {
    const r = new TcpRig().established();
    r.host(Buffer.alloc(4380));
    r.take();
    const first = r.next();
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
    const second = r.next();
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
    expect(second).toBeGreaterThan(first * 1.8);
    r.guest('.', { seq: 1, ack: 1461 });
    expect(r.take()).toEqual(['. seq 1461 ack 1 len 1460', 'P. seq 2921 ack 1 len 1460']);
  });

  test('the connection of a guest that stays silent is abandoned', () => {
    const r = new TcpRig().established();
    r.host(KB);
    r.take();
    r.pass(1_000_000);
    expect(r.take().slice(-2)).toEqual([expect.stringMatching(/^R\. seq/), 'reset']);
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('keep-alive: an idle guest is probed after two hours', () => {
    const r = new TcpRig().established();
    r.pass(7_199_000);
    expect(r.take()).toEqual([]);
    r.pass(2_000);
    expect(r.take()).toEqual(['. seq 0 ack 1']);
    r.guest('.', { seq: 1, ack: 1 });
    r.pass(7_199_000);
    expect(r.take(), 'it has answered: two more hours').toEqual([]);
  });

  test('keep-alive: without answers nine probes at 75 s intervals, abandoned after 2 h 11 min', () => {
    const r = new TcpRig().established();
    r.pass(7_200_000 + 9 * 75_000 - 1000);
    expect(r.take()).toEqual(new Array(9).fill('. seq 0 ack 1'));
    r.pass(2000);
    expect(r.take()).toEqual(['R. seq 1 ack 1', 'reset']);
    expect(r.machine.stats()).toMatchObject({ flows: 0, silent: 1, probes: 9 });
  });

  test('without room to the guest, payload waits and the host socket is not read', () => {
    const r = new TcpRig().established();
    r.port.space = 0;
    for (let i = 0; i < 200; i++) r.host(KB);
    expect(r.take()).toEqual(['do not read']);
    r.port.space = 1 << 20;
    r.machine.onRoom(r.port, r.now);
    const log = r.take();
    expect(log.at(-1)).toBe('read');
    expect(log.filter((l) => l.includes('len')).length).toBeGreaterThan(130);
  });
});
