import { describe, expect, test } from 'vitest';
import { GUEST, PEER, TcpRig } from '../../../test/sim/tcp-rig.ts';

describe('outbound: the guest opens a connection', () => {
  test('B12: a SYN is answered once the host socket is connected', () => {
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

  test('payload and FIN of the segment that completes the handshake are accepted, but nothing before our SYN-ACK', () => {
    const r = new TcpRig();
    r.guest('S');
    r.guest('F.', { seq: 1, ack: 1, data: 'too early' });
    expect(r.take()).toEqual(['connect 198.51.100.1:80']);
    r.machine.onConnected(r.flow!, r.now);
    r.guest('FP.', { seq: 1, ack: 1, data: 'GET /' });
    expect(r.take()).toEqual(['S. seq 0 ack 1 mss 1460 scale 7', 'write 5', 'end', '. seq 1 ack 7']);
  });

  test('no window scale option: windows are unscaled; no MSS option: the MSS is 536', () => {
    const r = new TcpRig();
    r.guest('S', { windowScale: -1 });
    r.machine.onConnected(r.flow!, r.now);
    expect(r.take()).toEqual(['connect 198.51.100.1:80', 'S. seq 0 ack 1 mss 1460 scale -1']);
    const none = new TcpRig();
    none.established({ mss: 0 });
    none.host(Buffer.alloc(1000));
    expect(none.take()).toEqual(['. seq 1 ack 1 len 536', 'P. seq 537 ack 1 len 464']);
  });

  test('refused: a RST; unreachable: an ICMP error that quotes the SYN', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onNotConnected(r.flow!, { kind: 'refused' }, r.now);
    expect(r.take()).toEqual(['connect 198.51.100.1:80', 'R. seq 0 ack 1']);
    r.guest('S');
    r.machine.onNotConnected(r.flow!, { kind: 'host-unreachable' }, r.now);
    expect(r.take()).toEqual(['connect 198.51.100.1:80', 'icmp host-unreachable 192.168.64.2:40000']);
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('policy drop: no answer; policy reset: a RST', () => {
    const r = new TcpRig();
    r.resolved = 'drop';
    r.guest('S');
    expect(r.take()).toEqual([]);
    r.resolved = 'reset';
    r.guest('S');
    expect(r.take()).toEqual(['R. seq 0 ack 1']);
  });

  test('RFC 9293 3.8.3, MUST-23: a lost SYN-ACK is retransmitted with backoff for 3 minutes, then the connection is abandoned', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onConnected(r.flow!, r.now);
    r.take();
    const waits: number[] = [];
    for (let i = 0; i < 10; i++) waits.push(Math.round(r.next(200_000) / 250));
    expect(waits).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    expect(r.take()).toEqual([...new Array(9).fill('S. seq 0 ack 1 mss 1460 scale 7'), 'reset']);
  });

  test('a retransmitted SYN is answered again', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onConnected(r.flow!, r.now);
    r.take();
    r.guest('S');
    expect(r.take()).toEqual(['S. seq 0 ack 1 mss 1460 scale 7']);
  });

  test('a RST of the guest during the dial resets the host socket', () => {
    const r = new TcpRig();
    r.guest('S');
    r.take();
    r.guest('R', { seq: 1 });
    expect(r.take()).toEqual(['reset']);
    r.machine.onConnected(r.flow!, r.now);
    expect(r.take()).toEqual([]);
  });

  test('an ACK of a SYN that was never sent is answered by a RST (RFC 9293 3.10.7.4)', () => {
    const r = new TcpRig();
    r.guest('S');
    r.machine.onConnected(r.flow!, r.now);
    r.take();
    r.guest('.', { seq: 1, ack: 77 });
    expect(r.take()).toEqual(['R seq 77']);
  });

  test('segments of no connection are answered by a RST; a RST is not answered', () => {
    const r = new TcpRig();
    r.guest('.', { seq: 5, ack: 9 });
    expect(r.take()).toEqual(['R seq 9']);
    r.guest('F', { seq: 5, data: 'abc' });
    expect(r.take()).toEqual(['R. seq 0 ack 9']);
    r.guest('R', { seq: 5 });
    expect(r.take()).toEqual([]);
  });

  test('10,000 half-open connections do not block the next one', () => {
    const r = new TcpRig({ limits: { flows: 500, connecting: 100 } });
    for (let i = 0; i < 10_000; i++) r.guest('S', { guestPort: 1024 + (i % 60_000), peerPort: 1 + (i >> 4) });
    expect(r.machine.stats()).toMatchObject({ flows: 100, connecting: 100, evicted: 9900 });
    r.take();
    r.guest('S', { guestPort: 65_000, peerPort: 443 });
    expect(r.take()).toEqual(['reset', 'connect 198.51.100.1:443']);
  });

  test('a NIC at its limit of established connections rejects more', () => {
    const r = new TcpRig({ limits: { flows: 3 } });
    for (let i = 0; i < 3; i++) r.established({ guestPort: 1000 + i });
    r.guest('S', { guestPort: 1003 });
    expect(r.take()).toEqual([expect.stringMatching(/^R\./)]);
    expect(r.machine.stats()).toMatchObject({ flows: 3, flowLimit: 1 });
  });
});

describe('inbound: a forwarded client (B67)', () => {
  const accept = (r: TcpRig) => {
    const flow = r.machine.accept(r.port, { guestIp: GUEST, guestPort: 22, sourceIp: PEER, sourcePort: 51_000 }, r.now)!;
    r.flow = flow;
    return flow;
  };
  const toGuest = { guestPort: 22, peerPort: 51_000 };

  test('the SYN has the address of the client; its payload waits for the SYN-ACK', () => {
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

  test('payload and FIN of a client that finishes before the guest answers are kept', () => {
    const r = new TcpRig();
    accept(r);
    r.host('GET /');
    r.machine.onHostFin(r.flow!, r.now);
    expect(r.take()).toEqual(['S seq 0 mss 1460 scale 7 sack']);
    r.guest('S.', { ...toGuest, ack: 1 });
    expect(r.take()).toEqual(['P. seq 1 ack 1 len 5', 'F. seq 6 ack 1']);
  });

  test('B65: no listener: refused; no answer: timeout', () => {
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
    r.pass(180_000);
    expect([r.take().at(-1), why]).toEqual(['S seq 0 mss 1460 scale 7 sack', 'refused']);
    r.pass(80_000);
    expect(r.take().at(-1)).toBe('reset');
    expect(why).toBe('timeout');
    expect(r.machine.stats()['flows']).toBe(0);
  });

  test('an old connection of the guest on the same ports is reset (RFC 9293 3.5.1)', () => {
    const r = new TcpRig();
    accept(r);
    r.take();
    r.guest('.', { ...toGuest, seq: 500, ack: 300 });
    expect(r.take()).toEqual(['R seq 300']);
    r.guest('S.', { ...toGuest, ack: 1 });
    expect(r.take()).toEqual(['. seq 1 ack 1']);
  });
});

test('initial sequence numbers: the same connection advances by the clock, another one differs (RFC 6528)', () => {
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
