import { describe, expect, test } from 'vitest';
import { TcpRig } from '../../../test/sim/tcp-rig.ts';

const KB = Buffer.alloc(1024, 'x');

describe('closing', () => {
  test('half-close by the guest: the host continues to send', () => {
    const r = new TcpRig().established();
    r.guest('F.', { seq: 1, ack: 1, data: 'last' });
    expect(r.take()).toEqual(['write 4', 'end', '. seq 1 ack 6']);
    r.host('still here');
    expect(r.take()).toEqual(['P. seq 1 ack 6 len 10']);
    r.guest('.', { seq: 6, ack: 11 });
    r.machine.onHostFin(r.flow!, r.now);
    expect(r.take()).toEqual(['F. seq 11 ack 6']);
    r.guest('.', { seq: 6, ack: 12 });
    expect(r.take()).toEqual(['close']);
    expect(r.machine.stats()).toMatchObject({ flows: 0, timeWait: 0 });
  });

  test('half-close by the host: the guest continues to send, then TIME-WAIT is ours', () => {
    const r = new TcpRig().established();
    r.machine.onHostFin(r.flow!, r.now);
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

  test('RFC 5382 REQ-5: 2 h 4 min of silence end neither an open nor a half-closed connection', () => {
    const SILENCE = 7_440_000;
    const r = new TcpRig().established();
    r.pass(SILENCE);
    r.take();
    r.guest('P.', { seq: 1, ack: 1, data: 'idle' });
    r.pass(100);
    expect(r.take()).toEqual(['write 4', '. seq 1 ack 5']);
    r.guest('F.', { seq: 5, ack: 1 });
    r.pass(SILENCE);
    r.take();
    r.host('late answer');
    expect(r.take()).toEqual(['P. seq 1 ack 6 len 11']);
  });

  test('simultaneous close', () => {
    const r = new TcpRig().established();
    r.machine.onHostFin(r.flow!, r.now);
    r.guest('F.', { seq: 1, ack: 1 });
    expect(r.take()).toEqual(['F. seq 1 ack 1', 'end', '. seq 2 ack 2']);
    r.guest('.', { seq: 2, ack: 2 });
    expect(r.take()).toEqual(['close']);
    expect(r.machine.stats()['timeWait']).toBe(1);
  });

  test('a lost FIN is retransmitted, an acknowledged one is not', () => {
    const r = new TcpRig().established();
    r.machine.onHostFin(r.flow!, r.now);
    r.take();
    r.next();
    expect(r.take()).toEqual(['F. seq 1 ack 1']);
    r.guest('.', { seq: 1, ack: 2 });
    r.pass(60_000);
    expect(r.take()).toEqual([]);
  });

  test('a FIN is sent after the payload', () => {
    const r = new TcpRig().established({ windowScale: 0, window: 100 });
    r.host(KB.subarray(0, 150));
    r.machine.onHostFin(r.flow!, r.now);
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 100']);
    r.guest('.', { seq: 1, ack: 101, window: 100 });
    expect(r.take()).toEqual(['P. seq 101 ack 1 len 50', 'F. seq 151 ack 1']);
  });

  test('a new SYN ends TIME-WAIT (RFC 9293 3.10.7.4)', () => {
    const r = new TcpRig().established();
    r.machine.onHostFin(r.flow!, r.now);
    r.guest('F.', { seq: 1, ack: 2 });
    r.take();
    r.guest('S', { seq: 5000 });
    expect(r.take()).toEqual(['connect 198.51.100.1:80']);
  });

  test('RST of the guest: only the expected sequence number is accepted (RFC 5961)', () => {
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

  test('RST of the host is forwarded', () => {
    const r = new TcpRig().established();
    r.machine.onHostReset(r.flow!, r.now);
    expect(r.take()).toEqual(['R. seq 1 ack 1']);
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('an ACK older than the largest window is challenged, and its payload ignored (RFC 5961 5.2)', () => {
    const r = new TcpRig().established({ windowScale: -1 });
    r.guest('P.', { seq: 1, ack: 1 - 65_536, data: 'forged' });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
    r.guest('P.', { seq: 1, ack: 1 - 65_535, data: 'late' });
    expect(r.take()).toEqual(['write 4', '. seq 1 ack 5']);
  });

  test('an ACK of data never sent is challenged and ignored', () => {
    const r = new TcpRig().established();
    r.guest('.', { seq: 1, ack: 5000 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
    r.host('abc');
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 3']);
  });

  test('cut resets both sides; removing an address or a port resets its flows', () => {
    const r = new TcpRig().established();
    r.machine.cut(r.flow!, r.now);
    expect(r.take()).toEqual(['R. seq 1 ack 1', 'reset']);
    r.established();
    r.machine.onAddressRemoved(r.port, 0xc0a84002, r.now);
    expect(r.take()).toEqual(['reset']);
    r.established();
    r.machine.onPortRemoved(r.port);
    expect(r.take()).toEqual(['reset']);
    expect(r.machine.stats()['flows']).toBe(0);
  });
});
