import { expect, test } from 'vitest';
import { parseIpv4 } from '../../wire/address.ts';
import { FLOW_SECONDS, MAX_FILTER_FLOWS } from './filter-flows.ts';
import { PacketFilter } from './packet-filter.ts';
import { parseFilter } from './parse-filter.ts';

const ip = (text: string): number => parseIpv4(text) as number;
const VM = '192.168.64.5';
const GATEWAY = '192.168.64.1';
const NEIGHBOUR = '192.168.64.6';
const FAR = '198.51.100.1';
const network = { gateway: ip(GATEWAY), isLocal: (a: number) => a >>> 8 === ip(GATEWAY) >>> 8 };

const filterOf = (...lines: string[]): PacketFilter => new PacketFilter(parseFilter(lines.join('\n')), network);
const SYN = 2;
const ACK = 16;
const FIN = 1;
const RST = 4;

interface Sent {
  fragment?: number;
  id?: number;
  options?: string;
  flags?: number;
}

const hex = (value: number, bytes: number): string => value.toString(16).padStart(2 * bytes, '0');

function ipv4(protocol: number, source: string, destination: string, payload: string, { fragment = 0, id = 7, options = '' }: Sent = {}): string {
  const header = 20 + options.length / 2;
  return `4${hex(header / 4, 1)[1]}00${hex(header + payload.length / 2, 2)}${hex(id, 2)}${hex(fragment, 2)}40${hex(protocol, 1)}0000${hex(ip(source), 4)}${hex(ip(destination), 4)}${options}${payload}`;
}
const udp = (from: number, to: number): string => `${hex(from, 2)}${hex(to, 2)}00080000`;
const tcp = (from: number, to: number, flags: number): string => `${hex(from, 2)}${hex(to, 2)}000000000000000050${hex(flags, 1)}${'00'.repeat(6)}`;
const echo = (type: number, id: number): string => `${hex(type, 1)}000000${hex(id, 2)}0001`;
const frame = (packet: string, type = '0800'): string => `${'00'.repeat(12)}${type}${packet}`;

/** Which way a frame goes, and its verdict. */
class Rig {
  readonly filter: PacketFilter;
  now = 1000;
  constructor(...lines: string[]) {
    this.filter = filterOf(...lines);
  }
  raw(text: string, outbound: boolean): string {
    const bytes = Buffer.from(text, 'hex');
    // other bytes around, so that a read beyond the frame shows
    const memory = Buffer.concat([Buffer.alloc(64, 0xa5), bytes, Buffer.alloc(64, 0xa5)]);
    return this.filter.check(memory, 64, 64 + bytes.length, outbound, this.now) ?? 'passes';
  }
  out(packet: string): string {
    return this.raw(frame(packet), true);
  }
  in(packet: string): string {
    return this.raw(frame(packet), false);
  }
  udpOut = (to: string, port: number, from = 5000, sent: Sent = {}): string => this.out(ipv4(17, VM, to, udp(from, port), sent));
  udpIn = (from: string, port: number, to = 5000, sent: Sent = {}): string => this.in(ipv4(17, from, VM, udp(port, to), sent));
  tcpOut = (to: string, port: number, flags: number, from = 5000): string => this.out(ipv4(6, VM, to, tcp(from, port, flags)));
  tcpIn = (from: string, port: number, flags: number, to = 5000): string => this.in(ipv4(6, from, VM, tcp(port, to, flags)));
}

test('B130: the first rule that matches decides, what none matches passes', () => {
  const r = new Rig(`pass out to ${FAR} port 80`, `block out to ${FAR}`);
  expect(r.udpOut(FAR, 80)).toBe('passes');
  expect(r.udpOut(FAR, 81)).toBe('filter');
  expect(r.out(ipv4(47, VM, FAR, '0000'))).toBe('filter');
  expect(r.udpOut('198.51.100.2', 81)).toBe('passes');
  expect(r.udpIn(FAR, 9, 6000)).toBe('passes');
});

test('B130: directions, prefixes, ranges of ports and protocols', () => {
  const r = new Rig('block in proto udp to port 20:30', 'block any from 10.0.0.0/8', 'block out proto icmp');
  expect([19, 20, 30, 31].map((p) => r.udpIn(FAR, 9, p))).toEqual(['passes', 'filter', 'filter', 'passes']);
  expect(r.tcpIn(FAR, 9, SYN, 20)).toBe('passes');
  expect(r.udpIn('10.255.0.1', 9, 99)).toBe('filter');
  expect(r.udpIn('11.0.0.1', 9, 99)).toBe('passes');
  expect(r.out(ipv4(1, VM, FAR, echo(8, 1)))).toBe('filter');
  expect(r.in(ipv4(1, FAR, VM, echo(8, 1)))).toBe('passes');
});

test('B130: answers pass for as long as the flow lasts, whoever began it', () => {
  const r = new Rig('pass out proto udp', 'pass in proto tcp to port 22', 'pass out proto icmp', 'block any');
  expect(r.udpIn(FAR, 80)).toBe('filter');
  expect(r.udpOut(FAR, 80)).toBe('passes');
  expect(r.udpIn(FAR, 80)).toBe('passes');
  expect(r.udpIn(FAR, 81)).toBe('filter');
  expect(r.udpIn('198.51.100.2', 80)).toBe('filter');
  expect(r.tcpOut(FAR, 4000, SYN | ACK, 22)).toBe('filter');
  expect(r.tcpIn(FAR, 4000, SYN, 22)).toBe('passes');
  expect(r.tcpOut(FAR, 4000, SYN | ACK, 22)).toBe('passes');
  expect(r.tcpOut(FAR, 4001, ACK, 22), 'to a port that has not connected').toBe('filter');
  expect(r.in(ipv4(1, FAR, VM, echo(0, 9)))).toBe('filter');
  expect(r.out(ipv4(1, VM, FAR, echo(8, 9)))).toBe('passes');
  expect(r.in(ipv4(1, FAR, VM, echo(0, 9)))).toBe('passes');
  expect(r.in(ipv4(1, FAR, VM, echo(0, 8)))).toBe('filter');
  r.now += 1000 * FLOW_SECONDS.udp - 1;
  expect(r.udpIn(FAR, 80), 'renewed').toBe('passes');
  r.now += 1000 * FLOW_SECONDS.udp;
  expect(r.udpIn(FAR, 80), 'expired').toBe('filter');
  expect(r.in(ipv4(1, FAR, VM, echo(0, 9)))).toBe('filter');
});

test('B130: TCP: opening, open and closing connections have their times; a new SYN begins a connection again', () => {
  const r = new Rig('pass out', 'block in');
  expect(r.tcpOut(FAR, 80, SYN)).toBe('passes');
  r.now += 1000 * FLOW_SECONDS.opening;
  expect(r.tcpIn(FAR, 80, SYN | ACK)).toBe('filter');
  expect(r.tcpOut(FAR, 80, SYN)).toBe('passes');
  expect(r.tcpIn(FAR, 80, SYN | ACK)).toBe('passes');
  r.now += 1000 * FLOW_SECONDS.tcp - 1;
  expect(r.tcpIn(FAR, 80, ACK)).toBe('passes');
  expect(r.tcpIn(FAR, 80, FIN | ACK)).toBe('passes');
  expect(r.tcpIn(FAR, 80, SYN), 'the peer begins none').toBe('filter');
  expect(r.tcpOut(FAR, 80, ACK)).toBe('passes');
  r.now += 1000 * FLOW_SECONDS.closing;
  expect(r.tcpIn(FAR, 80, ACK)).toBe('filter');
  expect(r.tcpOut(FAR, 80, SYN)).toBe('passes');
  expect(r.tcpIn(FAR, 80, RST | ACK)).toBe('passes');
  expect(r.tcpOut(FAR, 80, SYN)).toBe('passes');
  r.now += 1000 * FLOW_SECONDS.closing + 1;
  expect(r.tcpIn(FAR, 80, SYN | ACK), 'not closing any more').toBe('passes');
  expect(r.tcpOut(FAR, 99, RST | ACK), 'a reset begins nothing').toBe('passes');
  expect(r.tcpIn(FAR, 99, ACK)).toBe('filter');
});

test('B130: fragments: ports are in the first one, and the others follow it', () => {
  const more = 0x2000;
  const r = new Rig('pass out to port 80', 'block any');
  const later = (id: number, source = VM, to = FAR): string => ipv4(17, source, to, '00'.repeat(16), { fragment: 3, id });
  expect(r.out(later(1))).toBe('filter');
  expect(r.udpOut(FAR, 80, 5000, { fragment: more, id: 1 })).toBe('passes');
  expect(r.out(later(1))).toBe('passes');
  expect(r.out(later(2))).toBe('filter');
  expect(r.out(later(1, VM, NEIGHBOUR))).toBe('filter');
  expect(r.udpOut(FAR, 81, 5000, { fragment: more, id: 3 })).toBe('filter');
  expect(r.out(later(3))).toBe('filter');
  expect(r.udpIn(FAR, 80, 5000, { fragment: more, id: 9 }), 'a fragmented answer').toBe('passes');
  expect(r.in(later(9, FAR, VM))).toBe('passes');
  r.now += 10_000;
  expect(r.out(later(1))).toBe('filter');
  expect(r.out(ipv4(6, VM, FAR, hex(5000, 2) + hex(80, 2) + '00'.repeat(4), { fragment: more })), 'without its flags').toBe('malformed');
});

test('B130: an ICMP error passes if it is about a packet of a known flow', () => {
  const r = new Rig('pass out to port 80', 'pass out proto icmp', 'block any');
  const error = (quoted: string): string => `0303000000000000${quoted}`;
  const about = (packet: string): string => r.in(ipv4(1, '10.1.1.1', VM, error(packet)));
  expect(about(ipv4(17, VM, FAR, udp(5000, 80)))).toBe('filter');
  r.udpOut(FAR, 80);
  expect(about(ipv4(17, VM, FAR, udp(5000, 80)))).toBe('passes');
  expect(about(ipv4(17, VM, FAR, udp(5000, 81)))).toBe('filter');
  expect(about(ipv4(17, FAR, VM, udp(80, 5000))), 'about what came in').toBe('filter');
  expect(r.out(ipv4(1, VM, FAR, error(ipv4(17, FAR, VM, udp(80, 5000))))), 'the other way').toBe('passes');
  r.out(ipv4(1, VM, FAR, echo(8, 3)));
  expect(about(ipv4(1, VM, FAR, echo(8, 3)))).toBe('passes');
  expect(about(ipv4(17, VM, FAR, udp(5000, 80)).slice(0, -8)), 'a short quote').toBe('filter');
});

test('B130: DHCP passes unless a rule names its ports; local leaves the gateway’s DNS', () => {
  const dhcpOut = ipv4(17, '0.0.0.0', '255.255.255.255', udp(68, 67));
  const dhcpIn = ipv4(17, GATEWAY, '255.255.255.255', udp(67, 68));
  const any = new Rig('block any');
  expect([any.out(dhcpOut), any.in(dhcpIn)]).toEqual(['passes', 'passes']);
  expect(any.in(ipv4(17, GATEWAY, VM, udp(68, 67))), 'nothing else of these ports').toBe('filter');
  expect(new Rig('block any to port 67').out(dhcpOut)).toBe('filter');
  expect(new Rig('block in from any port 67 to any port 68').in(dhcpIn)).toBe('filter');
  const local = new Rig('block local');
  expect([local.udpOut(GATEWAY, 53), local.udpIn(GATEWAY, 53), local.tcpOut(GATEWAY, 53, SYN)]).toEqual(['passes', 'passes', 'passes']);
  expect([local.udpOut(GATEWAY, 54), local.udpOut(NEIGHBOUR, 53), local.tcpIn(NEIGHBOUR, 53, SYN)]).toEqual(['filter', 'filter', 'filter']);
  expect(local.out(ipv4(1, VM, GATEWAY, echo(8, 1)))).toBe('filter');
  expect(local.udpOut(FAR, 54)).toBe('passes');
});

test('B130: new rules forget the flows that they would not let begin, and keep the others', () => {
  const r = new Rig('block in');
  r.udpOut(FAR, 80);
  r.udpOut(FAR, 81);
  r.out(ipv4(1, VM, FAR, echo(8, 3)));
  r.filter.setRules(parseFilter(`block out from ${VM} to port 81\nblock in`));
  expect(r.udpIn(FAR, 80)).toBe('passes');
  expect(r.udpIn(FAR, 81)).toBe('filter');
  expect(r.in(ipv4(1, FAR, VM, echo(0, 3)))).toBe('passes');
});

test('B130: ARP and neighbour discovery pass, other frames do not', () => {
  const r = new Rig('pass any');
  const ipv6 = (next: string, payload: string): string => frame(`60000000${hex(payload.length / 2, 2)}${next}ff${'fe'.repeat(32)}${payload}`, '86dd');
  expect(r.raw(frame('0001', '0806'), true)).toBe('passes');
  expect(r.raw(ipv6('3a', `87000000${'00'.repeat(20)}`), true)).toBe('passes');
  expect(r.raw(ipv6('3a', `80000000${'00'.repeat(20)}`), true)).toBe('filter');
  expect(r.raw(ipv6('11', udp(1, 2)), false)).toBe('filter');
  expect(r.raw(ipv6('3a', ''), true)).toBe('filter');
  expect(r.raw(frame('0001', '8100'), true)).toBe('filter');
  expect(r.raw('00', true)).toBe('filter');
});

test('B130: no truncated packet passes, and none is read beyond its end', () => {
  const r = new Rig('pass any');
  const whole = frame(ipv4(6, VM, FAR, tcp(5000, 80, SYN), { options: '01010101' }));
  for (let n = 28; n < whole.length; n += 2) expect(r.raw(whole.slice(0, n), true), `${n / 2} bytes`).toBe('malformed');
  expect(r.raw(whole, true)).toBe('passes');
  expect(r.tcpIn(FAR, 80, SYN | ACK), 'rules decide').toBe('passes');
  const short = new Rig('block in', 'pass any');
  short.raw(whole, true);
  expect(short.tcpIn(FAR, 80, SYN | ACK), 'with IP options there is no flow').toBe('filter');
});

test('B130: flows beyond the limit are refused until others expire', () => {
  const r = new Rig('block in');
  for (let i = 0; i < MAX_FILTER_FLOWS; i++) expect(r.udpOut(FAR, 1 + (i & 0x3fff), 6000 + (i >>> 14))).toBe('passes');
  expect(r.udpOut(FAR, 30_000)).toBe('connection_limit');
  expect(r.udpOut(FAR, 5, 6000), 'a known one').toBe('passes');
  r.now += 1000 * FLOW_SECONDS.udp;
  expect(r.udpOut(FAR, 30_000)).toBe('passes');
  expect(r.udpIn(FAR, 30_000)).toBe('passes');
  expect(r.udpIn(FAR, 5, 6000)).toBe('filter');
});
