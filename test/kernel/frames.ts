/**
 * Hand-made frames with a MAC address at each offset where one may occur. The same function builds what a guest sends
 * and what the network must see, so tests compare bytes with bytes. Checksums are computed here, separately for each
 * frame.
 */
import { createHash } from 'node:crypto';

/** Bytes as hex without separators. */
type Hex = string;

export interface Crafted {
  name: string;
  /** The frame of a card with that address, to or from a peer. */
  build(mac: Hex, peer: Hex): Hex;
}

const BROADCAST = 'ffffffffffff';
const h = (value: number, bytes: number): Hex => value.toString(16).padStart(bytes * 2, '0');
const size = (hex: Hex): number => hex.length / 2;

function sum(hex: Hex): number {
  const b = Buffer.from(hex.length % 4 ? `${hex}00` : hex, 'hex');
  let s = 0;
  for (let i = 0; i < b.length; i += 2) s += b.readUInt16BE(i);
  while (s > 0xffff) s = (s & 0xffff) + (s >>> 16);
  return s;
}
const checksum = (hex: Hex): Hex => h(~sum(hex) & 0xffff, 2);

/** Reproducible bytes without a pattern. */
export function filler(bytes: number): Hex {
  let out = '';
  for (let i = 0; size(out) < bytes; i++) out += createHash('sha256').update(String(i)).digest('hex');
  return out.slice(0, bytes * 2);
}

const ethernet = (destination: Hex, source: Hex, type: Hex, payload: Hex): Hex => destination + source + type + payload;

function ipv4(protocol: number, payload: Hex, options = '', fragment = '0000'): Hex {
  const head = (c: Hex): Hex =>
    `4${h(5 + size(options) / 4, 1).slice(1)}00${h(20 + size(options) + size(payload), 2)}1234${fragment}40${h(protocol, 1)}${c}00000000ffffffff${options}`;
  return head(checksum(head('0000'))) + payload;
}

/** A UDP datagram from 0.0.0.0 to 255.255.255.255. */
function udp4(from: number, to: number, payload: Hex, summed = true): Hex {
  const head = h(from, 2) + h(to, 2) + h(8 + size(payload), 2);
  const c = checksum(`00000000ffffffff0011${h(8 + size(payload), 2)}${head}0000${payload}`);
  return `${head}${summed ? (c === '0000' ? 'ffff' : c) : '0000'}${payload}`;
}

const option = (code: number, value: Hex): Hex => h(code, 1) + h(size(value), 1) + value;
const dhcp = (mac: Hex, options: Hex, cookie = '63825363'): Hex =>
  `01010600deadbeef00000000${'00'.repeat(16)}${mac}${'00'.repeat(10)}${'00'.repeat(192)}${cookie}${cookie ? `${options}ff` : ''}`;
const discover = option(53, '01');

const IP6_A = `fe80${'00'.repeat(6)}0000000000000001`;
const IP6_B = `ff02${'00'.repeat(6)}0000000000000001`;

/**
 * An IPv6 packet; `before` is a chain of extension headers whose last byte-0 "next" fields are filled in by the caller.
 */
function ipv6(first: number, last: number, upper: (sumOver: (text: Hex) => Hex) => Hex, before = ''): Hex {
  const payload = upper((text) => checksum(`${IP6_A}${IP6_B}${h(size(text), 4)}000000${h(last, 1)}${text}`));
  return `60000000${h(size(before) + size(payload), 2)}${h(first, 1)}ff${IP6_A}${IP6_B}${before}${payload}`;
}
const icmp6 =
  (type: number, body: Hex): ((s: (t: Hex) => Hex) => Hex) =>
  (s) =>
    `${h(type, 1)}00${s(`${h(type, 1)}000000${body}`)}${body}`;
const udp6 =
  (from: number, to: number, payload: Hex): ((s: (t: Hex) => Hex) => Hex) =>
  (s) => {
    const head = h(from, 2) + h(to, 2) + h(8 + size(payload), 2);
    return `${head}${s(`${head}0000${payload}`)}${payload}`;
  };
const sourceLink = (mac: Hex): Hex => `0101${mac}`;
const targetLink = (mac: Hex): Hex => `0201${mac}`;
const NONCE = '0e01a1a2a3a4a5a6';
const TARGET = `fd64${'00'.repeat(13)}07`;
const option6 = (code: number, value: Hex): Hex => h(code, 2) + h(size(value), 2) + value;

/** Frames that differ only after the Ethernet header. */
const payloads: [name: string, type: Hex, payload: (mac: Hex) => Hex][] = [
  ['ARP request', '0806', (m) => `0001080006040001${m}c0a84002000000000000c0a84003`],
  ['ARP reply that holds the address twice', '0806', (m) => `0001080006040002${m}c0a84002${m}c0a84002`],
  ['ARP with IPv6-sized protocol addresses', '0806', (m) => `000186dd06100001${m}${'11'.repeat(16)}${m}${'22'.repeat(16)}`],
  ['RARP', '8035', (m) => `0001080006040003${m}00000000${m}00000000`],
  ['ARP of another hardware type', '0806', () => `0018080008040001${'1122334455667788'}c0a840020000000000000000c0a84003`],
  ['ARP truncated in the target', '0806', (m) => `0001080006040001${m}c0a840020000`],
  ['802.1Q, ARP', '8100', (m) => `000708060001080006040001${m}c0a84002000000000000c0a84003`],
  ['802.1ad and 802.1Q, ARP', '88a8', (m) => `00648100000708060001080006040001${m}c0a84002000000000000c0a84003`],
  ['DHCP, client identifier of type 1', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(12, '616e6b61') + option(61, `01${m}`))))],
  ['DHCP, client identifier at an odd offset', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(12, '616263') + option(61, `01${m}`))))],
  ['DHCP, pads before the client identifier', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, `${discover}${'00'.repeat(61)}${option(61, `01${m}`)}`)))],
  ['DHCP, DUID-LL', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(61, `ff0a0b0c0d00030001${m}`))))],
  ['DHCP, DUID-LLT at an odd offset', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, `${discover}00${option(61, `ff0a0b0c0d00010001601234af${m}`)}`)))],
  ['DHCP, DUID-EN with the same bytes', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(61, `ff0a0b0c0d0002${'525400aabbcc'}0001`))))],
  ['DHCP without a UDP checksum', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(61, `01${m}`)), false))],
  ['DHCP behind IP options', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(61, `01${m}`))), '9404000001010100')],
  ['DHCP from a server', '0800', (m) => ipv4(17, udp4(67, 68, dhcp(m, option(53, '05') + option(61, `01${m}`))))],
  ['DHCP in 802.1Q', '8100', (m) => `00070800${ipv4(17, udp4(68, 67, dhcp(m, discover + option(61, `01${m}`))))}`],
  ['DHCP, first fragment', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(61, `01${m}`))), '', '2000')],
  ['a non-first fragment that looks like DHCP', '0800', () => ipv4(17, udp4(68, 67, dhcp('525400aabbcc', discover)), '', '0010')],
  ['BOOTP without options', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, '', '')))],
  ['DHCP truncated inside the client identifier', '0800', (m) => ipv4(17, udp4(68, 67, dhcp(m, `${discover}3d0701`).slice(0, -2)))],
  [
    'DHCP, jumbo: thirty long options first',
    '0800',
    (m) => ipv4(17, udp4(68, 67, dhcp(m, discover + option(43, 'ab'.repeat(255)).repeat(30) + option(61, `01${m}`)))),
  ],
  ['DHCPv6, DUID-LL', '86dd', (m) => ipv6(17, 17, udp6(546, 547, `01123456${option6(1, `00030001${m}`)}${option6(8, '0000')}`))],
  ['DHCPv6, DUID-LLT at an odd offset', '86dd', (m) => ipv6(17, 17, udp6(546, 547, `01123456${option6(16, 'abcdef')}${option6(1, `00010001601234af${m}`)}`))],
  ['DHCPv6, relayed', '86dd', (m) => ipv6(17, 17, udp6(547, 547, `0c00${'00'.repeat(32)}${option6(79, `0001${m}`)}`))],
  ['router solicitation', '86dd', (m) => ipv6(58, 58, icmp6(133, `00000000${sourceLink(m)}`))],
  ['router advertisement', '86dd', (m) => ipv6(58, 58, icmp6(134, `4000070800000000000000000501000000000578${sourceLink(m)}`))],
  ['neighbour solicitation', '86dd', (m) => ipv6(58, 58, icmp6(135, `00000000${TARGET}${sourceLink(m)}`))],
  ['neighbour solicitation, nonce first', '86dd', (m) => ipv6(58, 58, icmp6(135, `00000000${TARGET}${NONCE}${sourceLink(m)}`))],
  ['neighbour advertisement', '86dd', (m) => ipv6(58, 58, icmp6(136, `60000000${TARGET}${targetLink(m)}`))],
  ['neighbour advertisement with both options', '86dd', (m) => ipv6(58, 58, icmp6(136, `60000000${TARGET}${sourceLink(m)}${targetLink(m)}`))],
  ['redirect', '86dd', (m) => ipv6(58, 58, icmp6(137, `00000000${TARGET}${IP6_A}${targetLink(m)}`))],
  ['neighbour solicitation in 802.1Q', '8100', (m) => `000786dd${ipv6(58, 58, icmp6(135, `00000000${TARGET}${sourceLink(m)}`))}`],
  [
    'neighbour solicitation after extension headers',
    '86dd',
    (m) => ipv6(0, 58, icmp6(135, `00000000${TARGET}${sourceLink(m)}`), `3c00010400000000${'3a01'}${'01'}${'0c'}${'00'.repeat(12)}`),
  ],
  ['neighbour advertisement in an atomic fragment', '86dd', (m) => ipv6(44, 58, icmp6(136, `60000000${TARGET}${targetLink(m)}`), '3a00000000001234')],
  ['a later IPv6 fragment', '86dd', () => ipv6(44, 58, icmp6(136, `60000000${TARGET}${targetLink('525400aabbcc')}`), '3a00000800001234')],
  ['neighbour advertisement truncated in its option', '86dd', () => ipv6(58, 58, icmp6(136, `60000000${TARGET}0201`))],
  ['MLD report', '86dd', () => ipv6(0, 58, icmp6(143, `0000000104000000${IP6_B}`), '3a00050200000000')],
  ['data that happens to contain an address', '0800', () => ipv4(17, udp4(4000, 4001, '525400aabbcc564545000001'))],
  ['a jumbo frame', '0800', () => ipv4(1, `0800${'00'.repeat(6)}${filler(65_000)}`)],
  ['802.3 with LLC', '0026', () => `424203${filler(35)}`],
  ['a header only', '88b5', () => ''],
];

export const CRAFTED: readonly Crafted[] = payloads.map(([name, type, payload]) => ({
  name,
  build: (mac, _peer) => ethernet(BROADCAST, mac, type, payload(mac)),
}));

/** Frames from the network to the card, and what the guest must see; the Ethernet source is the peer's. */
export const INBOUND: readonly Crafted[] = [
  ...payloads.map(([name, type, payload]) => ({ name, build: (mac: Hex, peer: Hex) => ethernet(BROADCAST, peer, type, payload(mac)) })),
  { name: 'IP to the card alone', build: (mac, peer) => ethernet(mac, peer, '0800', ipv4(1, '0800f7ff00000000')) },
];
