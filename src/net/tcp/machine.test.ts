import { describe, expect, test } from 'vitest';
import { FakePort, PEER, readFrames, TcpRig } from '../../../test/sim/tcp-rig.ts';
import { readSack } from '../../wire/tcp.ts';

const KB = Buffer.alloc(1024, 'x');

describe('opening by the guest', () => {
  test('B12: a SYN is answered when the outside connection stands', () => {
    const r = new TcpRig();
    r.guest('S');
    expect(r.take()).toEqual(['connect 198.51.100.1:80']);
    r.guest('S');
    expect(r.take()).toEqual([]);
    r.machine.onConnected(r.flow!, r.now);
    expect(r.take()).toEqual(['S. seq 0 ack 1 mss 1460 scale 7']);
    r.guest('.', { seq: 1, ack: 1 });
    expect(r.take()).toEqual([]);
    r.guest('P.', { seq: 1, ack: 1, data: 'GET /' });
    expect(r.take()).toEqual(['write 5', '. seq 1 ack 6']);
  });

  test('payload and FIN in the segment that completes the handshake are taken; before our answer nothing is', () => {
    const r = new TcpRig();
    r.guest('S');
    r.guest('F.', { seq: 1, ack: 1, data: 'too early' });
    expect(r.take()).toEqual(['connect 198.51.100.1:80']);
    r.machine.onConnected(r.flow!, r.now);
    r.guest('FP.', { seq: 1, ack: 1, data: 'GET /' });
    expect(r.take()).toEqual(['S. seq 0 ack 1 mss 1460 scale 7', 'write 5', 'end', '. seq 1 ack 7']);
  });

  test('a guest that does not scale windows gets none scaled, and no MSS means 536', () => {
    const r = new TcpRig();
    r.guest('S', { windowScale: -1 });
    r.machine.onConnected(r.flow!, r.now);
    expect(r.take()).toEqual(['connect 198.51.100.1:80', 'S. seq 0 ack 1 mss 1460 scale -1']);
    const none = new TcpRig();
    none.established({ mss: 0 });
    none.host(Buffer.alloc(1000));
    expect(none.take()).toEqual(['. seq 1 ack 1 len 536', 'P. seq 537 ack 1 len 464']);
  });

  test('refused is a RST, unreachable an ICMP error with the SYN in it', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onNotConnected(r.flow!, { kind: 'refused' }, r.now);
    expect(r.take()).toEqual(['connect 198.51.100.1:80', 'R. seq 0 ack 1']);
    r.guest('S');
    r.machine.onNotConnected(r.flow!, { kind: 'host-unreachable' }, r.now);
    expect(r.take()).toEqual(['connect 198.51.100.1:80', 'icmp host-unreachable 192.168.64.2:40000']);
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('policy: drop is silence, reset a refusal', () => {
    const r = new TcpRig();
    r.resolved = 'drop';
    r.guest('S');
    expect(r.take()).toEqual([]);
    r.resolved = 'reset';
    r.guest('S');
    expect(r.take()).toEqual(['R. seq 0 ack 1']);
  });

  test('a lost SYN and ACK is sent again with backoff, and given up in the end', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onConnected(r.flow!, r.now);
    r.take();
    const waits: number[] = [];
    for (let i = 0; i < 6; i++) waits.push(Math.round(r.next() / 250));
    expect(waits).toEqual([1, 2, 4, 8, 16, 32]);
    expect(r.take()).toEqual([...new Array(5).fill('S. seq 0 ack 1 mss 1460 scale 7'), 'reset']);
  });

  test('a SYN that comes again is answered again', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onConnected(r.flow!, r.now);
    r.take();
    r.guest('S');
    expect(r.take()).toEqual(['S. seq 0 ack 1 mss 1460 scale 7']);
  });

  test('a guest that gives up while we connect takes the host socket with it', () => {
    const r = new TcpRig();
    r.guest('S');
    r.take();
    r.guest('R', { seq: 1 });
    expect(r.take()).toEqual(['reset']);
    r.machine.onConnected(r.flow!, r.now);
    expect(r.take()).toEqual([]);
  });

  test('an ACK of a SYN that we did not send is reset (RFC 9293 3.10.7.4)', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onConnected(r.flow!, r.now);
    r.take();
    r.guest('.', { seq: 1, ack: 77 });
    expect(r.take()).toEqual(['R seq 77']);
  });

  test('segments of no connection are reset; a RST is not answered', () => {
    const r = new TcpRig();
    r.guest('.', { seq: 5, ack: 9 });
    expect(r.take()).toEqual(['R seq 9']);
    r.guest('F', { seq: 5, data: 'abc' });
    expect(r.take()).toEqual(['R. seq 0 ack 9']);
    r.guest('R', { seq: 5 });
    expect(r.take()).toEqual([]);
  });

  test('10,000 half-open connections do not keep the next one out', () => {
    const r = new TcpRig({ limits: { flows: 500, connecting: 100 } });
    for (let i = 0; i < 10_000; i++) r.guest('S', { guestPort: 1024 + (i % 60_000), peerPort: 1 + (i >> 4) });
    expect(r.machine.stats()).toMatchObject({ flows: 100, connecting: 100, evicted: 9900 });
    r.take();
    r.guest('S', { guestPort: 65_000, peerPort: 443 });
    expect(r.take()).toEqual(['reset', 'connect 198.51.100.1:443']);
  });

  test('a port that is full of working connections refuses more', () => {
    const r = new TcpRig({ limits: { flows: 3 } });
    for (let i = 0; i < 3; i++) r.established({ guestPort: 1000 + i });
    r.guest('S', { guestPort: 1003 });
    expect(r.take()).toEqual([expect.stringMatching(/^R\./)]);
    expect(r.machine.stats()).toMatchObject({ flows: 3, flowLimit: 1 });
  });
});

describe('opening towards the guest (B67)', () => {
  const accept = (r: TcpRig) => {
    const flow = r.machine.accept(r.port, 0xc0a84002, 22, PEER, 51_000, r.now)!;
    r.flow = flow;
    return flow;
  };
  const toGuest = { guestPort: 22, peerPort: 51_000 };

  test('the SYN comes from the client; its payload waits for the answer', () => {
    const r = new TcpRig();
    accept(r);
    expect(r.take()).toEqual(['S seq 0 mss 1460 scale 7 sack']);
    r.host('SSH-2.0');
    expect(r.take()).toEqual([]);
    r.guest('S.', { ...toGuest, ack: 1 });
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 7']);
    r.guest('P.', { ...toGuest, seq: 1, ack: 8, data: 'hello' });
    expect(r.take()).toEqual(['write 5', '. seq 8 ack 6']);
  });

  test('a client that has said everything, and ended, before the guest has answered: all of it is kept', () => {
    const r = new TcpRig();
    accept(r);
    r.host('GET /');
    r.machine.onHostEnd(r.flow!, r.now);
    expect(r.take()).toEqual(['S seq 0 mss 1460 scale 7 sack']);
    r.guest('S.', { ...toGuest, ack: 1 });
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 5', 'F. seq 6 ack 1']);
  });

  test('B65: no listener is a refusal, silence a timeout', () => {
    const r = new TcpRig();
    let why = '';
    accept(r).onAnswer = (w) => {
      why = w?.kind ?? 'accepted';
    };
    r.take();
    r.guest('R.', { ...toGuest, ack: 1 });
    expect([r.take(), why]).toEqual([['reset'], 'refused']);
    accept(r).onAnswer = (w) => {
      why = w?.kind ?? 'accepted';
    };
    r.pass(20_000);
    expect(r.take().at(-1)).toBe('reset');
    expect(why).toBe('timeout');
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('an old connection of the guest on these ports is reset by its ACK (RFC 9293 3.5.1)', () => {
    const r = new TcpRig();
    accept(r);
    r.take();
    r.guest('.', { ...toGuest, seq: 500, ack: 300 });
    expect(r.take()).toEqual(['R seq 300']);
    r.guest('S.', { ...toGuest, ack: 1 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
  });
});

describe('payload of the guest', () => {
  test('a run of segments is one write and one ACK', () => {
    const r = new TcpRig().established();
    r.run([0, 1, 2, 3].map((i) => r.build('.', { seq: 1 + i * 1000, ack: 1, data: Buffer.alloc(1000, String(i)) })));
    expect(r.take()).toEqual(['write 4000', '. seq 1 ack 4001']);
    expect(r.written[0].toString()).toBe('0'.repeat(1000) + '1'.repeat(1000) + '2'.repeat(1000) + '3'.repeat(1000));
  });

  test('what is out of order waits, and is answered by duplicate ACKs; what overlaps is trimmed', () => {
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

  test('a guest that takes selective acknowledgements (RFC 2018) is told what waits: what came last first, then the others', () => {
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

  test('a FIN that overtakes what goes before it is remembered: it need not come again', () => {
    const r = new TcpRig().established({ sack: true });
    r.guest('F.', { seq: 6, ack: 1, data: 'last' });
    expect(r.take()).toEqual(['. seq 1 ack 1 sack 6 10', '. seq 1 ack 1 sack 6 10']);
    r.guest('.', { seq: 1, ack: 1, data: 'first' });
    expect(r.take()).toEqual(['write 5', 'write 4', 'end', '. seq 1 ack 11']);
  });

  test('a lone FIN that overtakes its payload too; what claims to come behind it is not taken', () => {
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

  test('the sequence number goes round', () => {
    const r = new TcpRig({ isn: -3 }).established();
    r.guest('.', { seq: 1, data: 'across the end' });
    expect(r.take()).toEqual(['write 14', '. seq 1 ack 15']);
  });

  test('a host that does not take it closes the window; when it takes it, the guest is told', () => {
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

test('connections whose peers do not read do not stop the others', () => {
  const r = new TcpRig({ mtu: 65_520 });
  r.stuck = true;
  for (let f = 0; f < 12; f++) {
    r.established({ mss: 60_000, guestPort: 41_000 + f });
    for (let i = 0; i < 80; i++) r.guest('.', { seq: 1 + i * 60_000, data: Buffer.alloc(60_000), guestPort: 41_000 + f });
  }
  expect(r.machine.stats()['queued']).toBeLessThan(33 << 20);
  r.established({ guestPort: 42_000 });
  r.guest('P.', { seq: 1, data: 'GET /', guestPort: 42_000 });
  expect(r.take()).toEqual(['write 5', '. seq 1 ack 6']);
});

describe('the ACK of a small segment', () => {
  const talking = (): TcpRig => new TcpRig({ ackDelay: 2 }).established();

  test('is carried by the answer, if that is quick', () => {
    const r = talking();
    for (let i = 0; i < 100; i++) {
      r.guest('P.', { seq: 1 + 3 * i, ack: 1 + 2 * i, data: 'ask' });
      expect(r.take()).toEqual(['write 3']);
      r.host('me');
      expect(r.take()).toEqual([`P. seq ${1 + 2 * i} ack ${4 + 3 * i} len 2`]);
      r.pass(0.1);
    }
    r.pass(100);
    expect(r.take(), 'nothing is owed').toEqual([]);
  });

  test('goes out by itself after 2 ms, and the next ones at once for a while', () => {
    const r = talking();
    r.guest('P.', { seq: 1, ack: 1, data: 'x' });
    expect(r.take()).toEqual(['write 1']);
    r.guest('.', { seq: 2, ack: 1 }).pass(1.5);
    expect(r.take(), 'a pure ACK of the guest changes nothing').toEqual([]);
    expect(r.next()).toBeCloseTo(0.5);
    expect(r.take()).toEqual(['. seq 1 ack 2']);
    for (let i = 2; i < 34; i++) r.guest('P.', { seq: i, ack: 1, data: 'x' });
    expect(r.take().filter((l) => l !== 'write 1').length).toBe(32);
    r.guest('P.', { seq: 34, ack: 1, data: 'x' });
    expect(r.take(), 'then it is tried again').toEqual(['write 1']);
  });

  test('a second small segment, a large one, a repeated one and a FIN are acknowledged at once', () => {
    const r = talking();
    r.guest('P.', { seq: 1, ack: 1, data: 'x' }).guest('P.', { seq: 2, ack: 1, data: 'y' });
    expect(r.take()).toEqual(['write 1', 'write 1', '. seq 1 ack 3']);
    r.guest('.', { seq: 3, ack: 1, data: Buffer.alloc(1460) });
    expect(r.take()).toEqual(['write 1460', '. seq 1 ack 1463']);
    r.guest('P.', { seq: 1462, ack: 1, data: 'z' });
    expect(r.take()).toEqual(['. seq 1 ack 1463']);
    r.guest('P.', { seq: 1463, ack: 1, data: 'x' }).guest('F.', { seq: 1464, ack: 1 });
    expect(r.take()).toEqual(['write 1', 'end', '. seq 1 ack 1465']);
  });

  test('is not sent to a guest that is gone', () => {
    const r = talking();
    r.guest('P.', { seq: 1, ack: 1, data: 'x' }).guest('R', { seq: 2 });
    r.take();
    r.pass(100);
    expect(r.take()).toEqual([]);
  });
});

describe('payload for the guest', () => {
  test('is cut to the MSS, pushed at its end, and kept until acknowledged', () => {
    const r = new TcpRig().established();
    r.host(Buffer.alloc(3000));
    expect(r.take()).toEqual(['. seq 1 ack 1 len 1460', '. seq 1461 ack 1 len 1460', 'P. seq 2921 ack 1 len 80']);
    expect(r.flow!.send.length).toBe(3000);
    r.guest('.', { seq: 1, ack: 1461 });
    expect(r.flow!.send.length).toBe(1540);
    r.guest('.', { seq: 1, ack: 3001 });
    expect([r.flow!.send.length, r.take()]).toEqual([0, []]);
  });

  test("the guest's window is kept to", () => {
    const r = new TcpRig().established({ windowScale: 0, window: 2000 });
    r.host(Buffer.alloc(5000));
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
    r.guest('.', { seq: 1, ack: 1461, window: 3000 });
    expect(r.take()).toEqual(['. seq 1461 ack 1 len 1460', 'P. seq 2921 ack 1 len 1460']);
  });

  test('the window of a segment that is sent again counts, when it acknowledges something new: the guest is never sent more than it takes', () => {
    const r = new TcpRig().established({ window: 100 });
    r.guest('.', { seq: 1001, data: KB, window: 100, ack: 1 }); // early: a newer sequence number
    r.host(Buffer.alloc(20_000));
    r.take();
    r.guest('.', { seq: 1, data: 'x', window: 10, ack: 1 + 4 * 1460 });
    expect(r.take()).toEqual(['write 1', '. seq 7121 ack 2']);
  });

  test('a closed window is probed with backoff, and opens', () => {
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

  test('three duplicate ACKs send the oldest segment again, a partial ACK the next one (RFC 6582)', () => {
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

  describe('a guest that tells what it has received (RFC 2018, RFC 6675)', () => {
    /** Ten segments of 1,460 bytes are under way. */
    const sending = (): TcpRig => {
      const r = new TcpRig().established({ sack: true });
      r.host(Buffer.alloc(14_600));
      r.take();
      return r;
    };
    const at = (segment: number): number => 1 + 1460 * segment;

    test('only the holes are sent again, each once', () => {
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

    test('duplicate ACKs without news are no sign of loss', () => {
      const r = sending();
      for (let i = 0; i < 10; i++) r.guest('.', { seq: 1, ack: 1 });
      for (let i = 0; i < 10; i++) r.guest('.', { seq: 1, ack: 1, blocks: [at(4), at(5)] });
      expect(r.take()).toEqual([]);
    });

    test('what was never sent, or lies before the acknowledged, is not believed', () => {
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

    test('when fewer segments follow than make a loss sure, all of them do', () => {
      const r = new TcpRig().established({ sack: true });
      r.host(Buffer.alloc(2920));
      r.take();
      r.guest('.', { seq: 1, ack: 1, blocks: [at(1), at(2)] });
      expect(r.take()).toEqual(['P. seq 1 ack 1 len 1460']);
    });

    test('a block among other options, and one that is cut off', () => {
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

  test('a timeout begins again at the oldest byte, one segment first, and backs off', () => {
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

  test('a guest that stays silent is given up', () => {
    const r = new TcpRig().established();
    r.host(KB);
    r.take();
    r.pass(1_000_000);
    expect(r.take().slice(-2)).toEqual([expect.stringMatching(/^R\. seq/), 'reset']);
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('an idle guest is asked after two hours', () => {
    const r = new TcpRig().established();
    r.pass(7_199_000);
    expect(r.take()).toEqual([]);
    r.pass(2_000);
    expect(r.take()).toEqual(['. seq 0 ack 1']);
    r.guest('.', { seq: 1, ack: 1 });
    r.pass(7_199_000);
    expect(r.take(), 'it has answered: two hours again').toEqual([]);
  });

  test('an idle guest that is gone is asked nine times, every 75 seconds, and given up after 2 h 11 min', () => {
    const r = new TcpRig().established();
    r.pass(7_200_000 + 9 * 75_000 - 1000);
    expect(r.take()).toEqual(new Array(9).fill('. seq 0 ack 1'));
    r.pass(2000);
    expect(r.take()).toEqual(['R. seq 1 ack 1', 'reset']);
    expect(r.machine.stats()).toMatchObject({ flows: 0, silent: 1, probes: 9 });
  });

  test('no room to the guest: it waits, and the host socket is not read meanwhile', () => {
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

describe('ends', () => {
  test('half-close by the guest: the host goes on sending', () => {
    const r = new TcpRig().established();
    r.guest('F.', { seq: 1, ack: 1, data: 'last' });
    expect(r.take()).toEqual(['write 4', 'end', '. seq 1 ack 6']);
    r.host('still here');
    expect(r.take()).toEqual(['P. seq 1 ack 6 len 10']);
    r.guest('.', { seq: 6, ack: 11 });
    r.machine.onHostEnd(r.flow!, r.now);
    expect(r.take()).toEqual(['F. seq 11 ack 6']);
    r.guest('.', { seq: 6, ack: 12 });
    expect(r.take()).toEqual(['close']);
    expect(r.machine.stats()).toMatchObject({ flows: 0, timeWait: 0 });
  });

  test('half-close by the host: the guest goes on sending, then TIME-WAIT is ours', () => {
    const r = new TcpRig().established();
    r.machine.onHostEnd(r.flow!, r.now);
    expect(r.take()).toEqual(['F. seq 1 ack 1']);
    r.guest('.', { seq: 1, ack: 2 });
    r.guest('P.', { seq: 1, ack: 2, data: 'more' });
    expect(r.take()).toEqual(['write 4', '. seq 2 ack 5']);
    r.guest('F.', { seq: 5, ack: 2 });
    expect(r.take()).toEqual(['end', '. seq 2 ack 6', 'close']);
    expect(r.machine.stats()).toMatchObject({ flows: 1, timeWait: 1 });
    r.guest('F.', { seq: 5, ack: 2 });
    expect(r.take()).toEqual(['. seq 2 ack 6']);
    r.pass(3000);
    expect([r.take(), r.machine.stats()['flows']]).toEqual([[], 0]);
  });

  test('simultaneous close', () => {
    const r = new TcpRig().established();
    r.machine.onHostEnd(r.flow!, r.now);
    r.guest('F.', { seq: 1, ack: 1 });
    expect(r.take()).toEqual(['F. seq 1 ack 1', 'end', '. seq 2 ack 2']);
    r.guest('.', { seq: 2, ack: 2 });
    expect(r.take()).toEqual(['close']);
    expect(r.machine.stats()['timeWait']).toBe(1);
  });

  test('our FIN is sent again when it is lost, and never once acknowledged', () => {
    const r = new TcpRig().established();
    r.machine.onHostEnd(r.flow!, r.now);
    r.take();
    r.next();
    expect(r.take()).toEqual(['F. seq 1 ack 1']);
    r.guest('.', { seq: 1, ack: 2 });
    r.pass(60_000);
    expect(r.take()).toEqual([]);
  });

  test('a FIN waits for the payload before it', () => {
    const r = new TcpRig().established({ windowScale: 0, window: 100 });
    r.host(KB.subarray(0, 150));
    r.machine.onHostEnd(r.flow!, r.now);
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 100']);
    r.guest('.', { seq: 1, ack: 101, window: 100 });
    expect(r.take()).toEqual(['P. seq 101 ack 1 len 50', 'F. seq 151 ack 1']);
  });

  test('a new SYN ends TIME-WAIT (RFC 9293 3.10.7.4)', () => {
    const r = new TcpRig().established();
    r.machine.onHostEnd(r.flow!, r.now);
    r.guest('F.', { seq: 1, ack: 2 });
    r.take();
    r.guest('S', { seq: 5000 });
    expect(r.take()).toEqual(['connect 198.51.100.1:80']);
  });

  test('RST of the guest: only the right number counts (RFC 5961)', () => {
    const r = new TcpRig().established();
    r.guest('R', { seq: 100 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
    r.guest('R', { seq: 900_000_000 });
    expect(r.take()).toEqual([]);
    r.guest('S', { seq: 50 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
    for (let i = 0; i < 50; i++) r.guest('R', { seq: 100 });
    expect(r.take().length).toBe(8);
    r.guest('R', { seq: 1 });
    expect(r.take()).toEqual(['reset']);
  });

  test('RST of the host is passed on', () => {
    const r = new TcpRig().established();
    r.machine.onHostReset(r.flow!, r.now);
    expect(r.take()).toEqual(['R. seq 1 ack 1']);
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('an ACK of what was never sent changes nothing', () => {
    const r = new TcpRig().established();
    r.guest('.', { seq: 1, ack: 5000 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
    r.host('abc');
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 3']);
  });

  test('cut resets both sides; a port that goes takes its flows along', () => {
    const r = new TcpRig().established();
    r.machine.cut(r.flow!, r.now);
    expect(r.take()).toEqual(['R. seq 1 ack 1', 'reset']);
    r.established();
    r.machine.onAddressGone(r.port, 0xc0a84002, r.now);
    expect(r.take()).toEqual(['reset']);
    r.established();
    r.machine.onPortGone(r.port);
    expect(r.take()).toEqual(['reset']);
    expect(r.machine.stats()['flows']).toBe(0);
  });
});

test('initial sequence numbers: the same connection again is ahead by the clock, another one is elsewhere (RFC 6528)', () => {
  const first = new TcpRig();
  first.established();
  const again = new TcpRig();
  again.now += 1000;
  again.established();
  expect((again.iss - first.iss) | 0).toBe(250_000);
  const other = new TcpRig();
  other.established({ guestPort: 40_001 });
  expect(other.iss).not.toBe(first.iss);
});

describe('one guest does not stop another', () => {
  const pair = (limits: ConstructorParameters<typeof TcpRig>[0]): { r: TcpRig; by: FakePort } => {
    const r = new TcpRig(limits);
    const by = new FakePort(r.memory, 1, 1500, (start, end) => {
      for (const s of readFrames(r.memory, start, end)) r.log.push(`to the other: ${r.show(s)}`);
    });
    return { r, by };
  };

  test('memory for what a guest does not acknowledge: it gets as much as is left, never all', () => {
    const { r, by } = pair({ limits: { sendMemory: 8 << 20 } });
    for (let i = 0; i < 40; i++) {
      r.established({ guestPort: 1000 + i });
      for (let sent = 0; sent < 1 << 20 && r.flow?.reading; sent += 65_536) r.host(Buffer.alloc(65_536));
    }
    r.take();
    expect(r.machine.pool.free).toBe(4 << 20);
    r.established({ by });
    r.host(KB);
    expect(r.take()).toEqual(['to the other: P. seq 1 ack 1 len 1024']);
  });

  test('connections, and those that are not made yet: each guest has its own number', () => {
    const { r, by } = pair({ limits: { flows: 3, connecting: 2 } });
    for (let i = 0; i < 3; i++) r.established({ guestPort: 1000 + i });
    r.guest('S', { guestPort: 1003 });
    expect(r.take()).toEqual([expect.stringMatching(/^R\./)]);
    r.established({ by });
    for (let i = 0; i < 5; i++) r.guest('S', { guestPort: 2000 + i });
    r.take();
    r.guest('S', { by, guestPort: 3000 });
    expect(r.take()).toEqual(['connect 198.51.100.1:80']);
    expect(r.machine.stats()).toMatchObject({ flows: 5, connecting: 1 });
  });
});
