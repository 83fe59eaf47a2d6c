import { beforeEach, expect, test } from 'vitest';
import { type UdpFlow, UdpNat } from './udp-nat.ts';

interface Card {
  name: string;
}
const [A, B]: Card[] = [{ name: 'a' }, { name: 'b' }];
const ME = 0xc0a84002;
const REMOTE = 0xc6336401;
const HOST = 0x0a090002;
const GATEWAY = 0xc0a84001;
const bytes = Uint8Array.of(1, 2, 3);
let log: string[];
let flows: UdpFlow<Card>[];
let refuse: boolean;
let full: boolean;
let nat: UdpNat<Card>;

beforeEach(() => {
  log = [];
  flows = [];
  refuse = full = false;
  nat = new UdpNat<Card>((flow) => {
    if (refuse) return null;
    flows.push(flow);
    const name = `${flow.port.name}:${flow.guestPort}`;
    log.push(`open ${name}`);
    return {
      send: (_b, ip, port, ttl, whole) => log.push(`send ${name} to ${ip.toString(16)}:${port}${ttl === 63 && whole ? '' : ' otherwise'}`) > 0 && !full,
      close: () => log.push(`close ${name}`),
    };
  });
});

const send = (card: Card, source: number, sourcePort: number, destination: number, real: number, destinationPort: number, now: number): string | null =>
  nat.send(card, { source, sourcePort, destination, destinationPort, payload: bytes, ttl: 63, whole: true }, real, now);

test('RFC 4787 REQ-1: one socket per guest port for all destinations; another one per NIC', () => {
  send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 0);
  send(A as Card, ME, 5000, REMOTE + 1, REMOTE + 1, 81, 0);
  send(B as Card, ME, 5000, REMOTE, REMOTE, 80, 0);
  expect(log).toEqual(['open a:5000', 'send a:5000 to c6336401:80', 'send a:5000 to c6336402:81', 'open b:5000', 'send b:5000 to c6336401:80']);
});

test('RFC 4787 REQ-8: only addresses that were sent to may answer, from any port', () => {
  send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 0);
  expect(nat.peerOf(flows[0] as UdpFlow<Card>, REMOTE, 1)).toBe(REMOTE);
  expect(nat.peerOf(flows[0] as UdpFlow<Card>, REMOTE + 1, 1)).toBeNull();
});

test('a translated destination is translated back, as the guest used it last', () => {
  send(A as Card, ME, 5000, GATEWAY, HOST, 80, 0);
  expect(nat.peerOf(flows[0] as UdpFlow<Card>, HOST, 1)).toBe(GATEWAY);
  expect([nat.knownAs(flows[0] as UdpFlow<Card>, HOST), nat.knownAs(flows[0] as UdpFlow<Card>, REMOTE)]).toEqual([GATEWAY, null]);
  send(A as Card, ME, 5000, HOST, HOST, 80, 2);
  expect(nat.peerOf(flows[0] as UdpFlow<Card>, HOST, 3)).toBe(HOST);
});

test('what the host’s link does not take is dropped with a reason, and the flow continues', () => {
  full = true;
  expect(send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 0)).toBe('queue_full');
  full = false;
  expect(send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 1)).toBeNull();
  expect(log.filter((l) => l.startsWith('open'))).toEqual(['open a:5000']);
});

test('RFC 4787 REQ-5: five minutes of silence, counted from the last datagram in either direction; DNS half a minute', () => {
  send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 0);
  send(A as Card, ME, 5353, REMOTE, REMOTE, 53, 0);
  nat.peerOf(flows[0] as UdpFlow<Card>, REMOTE, 10_000);
  nat.poll(29_999);
  expect(nat.size).toBe(2);
  nat.poll(30_000);
  expect(log.at(-1)).toBe('close a:5353');
  nat.poll(309_999);
  expect(nat.size).toBe(1);
  nat.poll(310_000);
  expect([nat.size, log.at(-1)]).toEqual([0, 'close a:5000']);
});

test('bounds: 1024 flows per NIC, the longest idle is evicted; 2048 peers per flow, and 16,384 per NIC', () => {
  for (let p = 1; p <= 1024; p++) send(A as Card, ME, p, REMOTE, REMOTE, 80, p);
  send(A as Card, ME, 1, REMOTE, REMOTE, 80, 2000);
  send(A as Card, ME, 3000, REMOTE, REMOTE, 80, 2001);
  expect([nat.size, nat.evicted]).toEqual([1024, 1]);
  expect(log.filter((l) => l.startsWith('close'))).toEqual(['close a:2']);
  const flow = flows.at(-1) as UdpFlow<Card>;
  const remembered = (f: UdpFlow<Card>): number => f.peers.size + f.olderPeers.size;
  for (let i = 0; i < 200; i++) send(A as Card, ME, 3000, REMOTE + i, REMOTE + i, 80, 2002);
  expect([...Array(200).keys()].filter((i) => nat.peerOf(flow, REMOTE + i, 2003) === REMOTE + i).length, 'all of 200 may answer').toBe(200);
  for (let i = 0; i < 10_000; i++) send(A as Card, ME, 3000, REMOTE + i, REMOTE + i, 80, 2004);
  expect([remembered(flow) <= 2048, nat.knownAs(flow, REMOTE + 9999)]).toEqual([true, REMOTE + 9999]);
  for (let p = 4000; p < 4100; p++) for (let i = 0; i < 1000; i++) send(A as Card, ME, p, REMOTE + i, REMOTE + i, 80, 10_000 + p);
  expect(flows.filter((f) => f.socket).reduce((n, f) => n + remembered(f), 0)).toBeLessThanOrEqual(16_384);
});

test('no socket available, a failed socket, a removed NIC, a removed address', () => {
  refuse = true;
  expect(send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 0)).toBe('udp_flows');
  refuse = false;
  send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 0);
  nat.failed(flows[0] as UdpFlow<Card>);
  send(A as Card, ME, 5001, REMOTE, REMOTE, 80, 0);
  send(A as Card, ME + 1, 5001, REMOTE, REMOTE, 80, 0);
  send(B as Card, ME, 5001, REMOTE, REMOTE, 80, 0);
  nat.forget(A as Card, ME);
  expect(nat.size).toBe(2);
  nat.forget(A as Card);
  expect(nat.size).toBe(1);
  nat.close();
  expect([nat.size, log.filter((l) => l.startsWith('close')).length]).toEqual([0, 4]);
});

test('B91: peers that a guest may not reach any more cannot answer; a flow without other peers is closed', () => {
  send(A as Card, ME, 5000, GATEWAY, HOST, 80, 0);
  send(A as Card, ME, 5000, REMOTE, REMOTE, 80, 0);
  send(A as Card, ME, 5001, GATEWAY, HOST, 80, 0);
  send(B as Card, ME + 1, 5000, GATEWAY, HOST, 80, 0);
  nat.removePeers(A as Card, (ip) => ip === GATEWAY);
  const [both, one, other] = flows as [UdpFlow<Card>, UdpFlow<Card>, UdpFlow<Card>];
  expect([nat.peerOf(both, HOST, 1), nat.peerOf(both, REMOTE, 1), nat.peerOf(other, HOST, 1)]).toEqual([null, REMOTE, GATEWAY]);
  expect([one.socket, nat.size]).toEqual([null, 2]);
});
