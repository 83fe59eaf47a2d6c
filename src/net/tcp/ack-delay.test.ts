import { describe, expect, test } from 'vitest';
import { TcpRig } from '../../../test/sim/tcp-rig.ts';

describe('delayed ACK of a small segment', () => {
  const talking = (): TcpRig => new TcpRig({ ackDelay: 2 }).established();

  test('the answer carries it, if that is quick', () => {
    const r = talking();
    for (let i = 0; i < 100; i++) {
      r.guest('P.', { seq: 1 + 3 * i, ack: 1 + 2 * i, data: 'ask' });
      expect(r.take()).toEqual(['write 3']);
      r.host('me');
      expect(r.take()).toEqual([`P. seq ${1 + 2 * i} ack ${4 + 3 * i} len 2`]);
      r.pass(0.1);
    }
    r.pass(100);
    expect(r.take(), 'no ACK is due').toEqual([]);
  });

  test('it is sent after 2 ms, and the next 32 are not delayed', () => {
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
    expect(r.take(), 'then it is delayed again').toEqual(['write 1']);
  });

  test('a second small segment, a large one, a duplicate and a FIN are acknowledged at once', () => {
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

  test('it is not sent for a closed connection', () => {
    const r = talking();
    r.guest('P.', { seq: 1, ack: 1, data: 'x' }).guest('R', { seq: 2 });
    r.take();
    r.pass(100);
    expect(r.take()).toEqual([]);
  });
});
