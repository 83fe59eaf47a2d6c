/**
 * Frames that a guest may not send (B91, B92, B15): one table for both engines, for namespaces and for a real guest. An
 * entry is one Ethernet frame with a token, which no other station may ever receive, and the reason that counts its
 * drop.
 *
 * `valid`: the legitimate form of the frame, where one exists; another guest of the network must receive it.
 */

/** Bytes as hex without separators. */
type Hex = string;

/** A station of the network. */
export interface Station {
  mac: Hex;
  /** In dotted notation. */
  ip: string;
}

export interface SpoofWorld {
  /** The guest that spoofs, and its victim. */
  me: Station;
  other: Station;
  gateway: Station;
  /** An address of the other network, and one outside the host. */
  elsewhere: string;
  outside: string;
}

/** Two names where the engines count under different ones. */
export type Reason = string | { kernel: string; user: string };

export interface Spoof {
  what: string;
  reason: Reason;
  frame(w: SpoofWorld, token: Hex): Hex;
  valid?(w: SpoofWorld, token: Hex): Hex;
}

const h = (value: number, bytes: number): Hex => value.toString(16).padStart(bytes * 2, '0');
const size = (hex: Hex): number => hex.length / 2;
const ip = (text: string): Hex =>
  text
    .split('.')
    .map((p) => h(Number(p), 1))
    .join('');

function checksum(hex: Hex): Hex {
  const b = Buffer.from(hex.length % 4 ? `${hex}00` : hex, 'hex');
  let s = 0;
  for (let i = 0; i < b.length; i += 2) s += b.readUInt16BE(i);
  while (s > 0xffff) s = (s & 0xffff) + (s >>> 16);
  return h(~s & 0xffff, 2);
}

const ALL = 'f'.repeat(12);
const GROUP4 = '01005e000001';
const NODES_MAC = '333300000001';
const NODES = `ff02${'0'.repeat(27)}1`;
const ANY6 = '0'.repeat(32);
const PAD = '00'.repeat(46);

const ethernet = (destination: Hex, source: Hex, type: Hex, payload: Hex): Hex => destination + source + type + payload;
/** The token follows the message, as padding. */
const arp = (op: number, sha: Hex, spa: string, tpa: string, token: Hex, hardware = '0001'): Hex =>
  `${hardware}08000604${h(op, 2)}${sha}${ip(spa)}${op === 1 ? '0'.repeat(12) : ALL}${ip(tpa)}${token}${'00'.repeat(18 - size(token))}`;

/** `fragment`: flags and offset. */
function ipv4(protocol: number, source: string, destination: string, payload: Hex, options = '', fragment = '4000'): Hex {
  const head = (c: Hex): Hex =>
    `4${h(5 + size(options) / 4, 1).slice(1)}00${h(20 + size(options) + size(payload), 2)}1234${fragment}40${h(protocol, 1)}${c}${ip(source)}${ip(destination)}${options}`;
  return head(checksum(head('0000'))) + payload;
}
const udp = (from: number, to: number, payload: Hex): Hex => `${h(from, 2)}${h(to, 2)}${h(8 + size(payload), 2)}0000${payload}`;
const icmp = (typeAndCode: Hex, rest: Hex): Hex => typeAndCode + checksum(`${typeAndCode}0000${rest}`) + rest;
const echo = (token: Hex): Hex => icmp('0800', `00010001${token}`);
/** An offer for another guest, with only the options that matter. */
const offer = (token: Hex): Hex => udp(67, 68, `02010600${token}${'00'.repeat(224)}63825363350102ff`);
/** A segment that opens a connection, with data. */
function syn(source: string, destination: string, token: Hex): Hex {
  const text = (c: Hex): Hex => `9c401f90000000010000000050022000${c}0000${token}`;
  return text(checksum(`${ip(source)}${ip(destination)}0006${h(size(text('0000')), 2)}${text('0000')}`));
}

/**
 * `before`: extension headers, the first of type `first`. In neighbour discovery, the token is in an unassigned option.
 */
function ipv6(source: Hex, destination: Hex, next: number, upper: (sum: (t: Hex) => Hex) => Hex, first = next, before = ''): Hex {
  const payload = upper((t) => checksum(`${source}${destination}${h(size(t), 4)}000000${h(next, 1)}${t}`));
  return `60000000${h(size(before) + size(payload), 2)}${h(first, 1)}ff${source}${destination}${before}${payload}`;
}
const icmp6 = (type: number, body: Hex) => (sum: (t: Hex) => Hex) => `${h(type, 1)}00${sum(`${h(type, 1)}000000${body}`)}${body}`;
const udp6 = (from: number, to: number, payload: Hex) => (sum: (t: Hex) => Hex) => {
  const head = h(from, 2) + h(to, 2) + h(8 + size(payload), 2);
  return `${head}${sum(`${head}0000${payload}`)}${payload}`;
};
/** The link-local address derived from a MAC (RFC 4291, appendix A). */
export const linkLocal = (mac: Hex, prefix = 'fe80000000000000'): Hex =>
  `${prefix}${h(Number.parseInt(mac.slice(0, 2), 16) ^ 2, 1)}${mac.slice(2, 6)}fffe${mac.slice(6)}`;
const link = (kind: 1 | 2, mac: Hex): Hex => `${h(kind, 1)}01${mac}`;
/** Option 253 (RFC 4727), as long as the token needs. */
const unknown = (token: Hex): Hex => `fd02${'0000'}${token}${'00'.repeat(12 - size(token))}`;
const advertise = (target: Hex, mac: Hex, token: Hex) => icmp6(136, `60000000${target}${link(2, mac)}${unknown(token)}`);
const solicit = (target: Hex, mac: Hex, token: Hex) => icmp6(135, `00000000${target}${link(1, mac)}${unknown(token)}`);
const routerAdvert = (token: Hex) => icmp6(134, `40080708${'0'.repeat(16)}${unknown(token)}`);

/** IPv4 from this guest to the broadcast MAC. */
const by4 = (w: SpoofWorld, packet: Hex, destination = ALL): Hex => ethernet(destination, w.me.mac, '0800', packet);
const by6 = (w: SpoofWorld, packet: Hex): Hex => ethernet(NODES_MAC, w.me.mac, '86dd', packet);
const byArp = (w: SpoofWorld, message: Hex, destination = ALL): Hex => ethernet(destination, w.me.mac, '0806', message);
/** From an address to the other guest, in a broadcast frame. */
const from4 = (source: (w: SpoofWorld) => string) => (w: SpoofWorld, t: Hex) => by4(w, ipv4(17, source(w), w.other.ip, udp(4000, 4001, t)));
const from6 = (source: (w: SpoofWorld) => Hex) => (w: SpoofWorld, t: Hex) => by6(w, ipv6(source(w), NODES, 17, udp6(4000, 4001, t)));
const mine6 = (w: SpoofWorld): Hex => linkLocal(w.me.mac);
const valid4 = from4((w) => w.me.ip);
const valid6 = from6(mine6);
const validAdvert = (w: SpoofWorld, t: Hex): Hex => by6(w, ipv6(mine6(w), NODES, 58, advertise(mine6(w), w.me.mac, t)));
const validSolicit = (w: SpoofWorld, t: Hex): Hex => by6(w, ipv6(mine6(w), NODES, 58, solicit(linkLocal(w.other.mac), w.me.mac, t)));
const validArp = (w: SpoofWorld, t: Hex): Hex => byArp(w, arp(1, w.me.mac, w.me.ip, w.other.ip, t));
const SHORT_HEADER = '3a00010400000000';

/** From a guest of the shared network: what no other guest, nor the host, nor the outside may receive. */
export const SPOOFS: readonly Spoof[] = [
  // the sender's MAC
  {
    what: 'another VM’s MAC',
    reason: 'mac_spoof',
    frame: (w, t) => ethernet(ALL, w.other.mac, '0800', ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))),
    valid: valid4,
  },
  { what: 'the gateway’s MAC', reason: 'mac_spoof', frame: (w, t) => ethernet(ALL, w.gateway.mac, '0800', ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))) },
  {
    what: 'an unused MAC',
    reason: 'mac_spoof',
    frame: (w, t) => ethernet(ALL, '020000000099', '0806', arp(1, '020000000099', w.me.ip, w.other.ip, t)),
  },
  {
    what: 'a group’s MAC as sender',
    reason: 'mac_spoof',
    frame: (w, t) => ethernet(ALL, `03${w.me.mac.slice(2)}`, '0800', ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))),
  },
  { what: 'no MAC as sender', reason: 'mac_spoof', frame: (w, t) => ethernet(ALL, '0'.repeat(12), '0800', ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))) },

  // ARP
  {
    what: 'an ARP reply for the gateway’s address',
    reason: 'arp_spoof',
    frame: (w, t) => byArp(w, arp(2, w.me.mac, w.gateway.ip, w.other.ip, t)),
    valid: validArp,
  },
  {
    what: 'an ARP request for the gateway’s address',
    reason: 'arp_spoof',
    frame: (w, t) => byArp(w, arp(1, w.me.mac, w.gateway.ip, w.other.ip, t), w.other.mac),
  },
  { what: 'an ARP announcement for the gateway’s address', reason: 'arp_spoof', frame: (w, t) => byArp(w, arp(1, w.me.mac, w.gateway.ip, w.gateway.ip, t)) },
  { what: 'an ARP reply for another VM’s address', reason: 'arp_spoof', frame: (w, t) => byArp(w, arp(2, w.me.mac, w.other.ip, w.gateway.ip, t)) },
  {
    what: 'an ARP announcement for another VM’s address',
    reason: 'arp_spoof',
    frame: (w, t) => byArp(w, arp(2, w.me.mac, w.other.ip, w.other.ip, t)),
    valid: (w, t) => byArp(w, arp(2, w.me.mac, w.me.ip, w.me.ip, t)),
  },
  { what: 'ARP with another VM’s MAC inside', reason: 'arp_spoof', frame: (w, t) => byArp(w, arp(2, w.other.mac, w.me.ip, w.gateway.ip, t)) },
  { what: 'ARP with the gateway’s MAC inside', reason: 'arp_spoof', frame: (w, t) => byArp(w, arp(2, w.gateway.mac, w.gateway.ip, w.other.ip, t)) },
  {
    what: 'ARP of IEEE 802 hardware for the gateway’s address',
    reason: 'arp_spoof',
    frame: (w, t) => byArp(w, arp(2, w.me.mac, w.gateway.ip, w.other.ip, t, '0006')),
  },
  {
    what: 'ARP of IEEE 802 hardware with a foreign MAC inside',
    reason: 'arp_spoof',
    frame: (w, t) => byArp(w, arp(2, w.other.mac, w.me.ip, w.other.ip, t, '0006')),
  },
  { what: 'ARP for an address outside the subnet', reason: 'arp_spoof', frame: (w, t) => byArp(w, arp(2, w.me.mac, w.outside, w.other.ip, t)) },
  {
    what: 'ARP for the broadcast address',
    reason: 'arp_spoof',
    frame: (w, t) => byArp(w, arp(2, w.me.mac, w.gateway.ip.replace(/\d+$/, '255'), w.other.ip, t)),
  },
  { what: 'reverse ARP', reason: 'ethertype', frame: (w, t) => ethernet(ALL, w.me.mac, '8035', arp(3, w.me.mac, w.me.ip, w.me.ip, t)) },

  // IPv4 from a foreign address
  { what: 'another VM’s IPv4 address', reason: 'ip_spoof', frame: from4((w) => w.other.ip), valid: valid4 },
  { what: 'the gateway’s IPv4 address', reason: 'ip_spoof', frame: from4((w) => w.gateway.ip) },
  { what: 'an outside IPv4 address', reason: 'ip_spoof', frame: from4((w) => w.outside) },
  { what: 'an address of the other network', reason: 'ip_spoof', frame: from4((w) => w.elsewhere) },
  { what: 'an unclaimed address', reason: 'ip_spoof', frame: from4((w) => w.gateway.ip.replace(/\d+$/, '233')) },
  { what: 'the broadcast address as sender', reason: 'ip_spoof', frame: from4((w) => w.gateway.ip.replace(/\d+$/, '255')) },
  { what: 'no IPv4 address', reason: 'ip_spoof', frame: from4(() => '0.0.0.0') },
  { what: 'the loopback address as sender', reason: 'ip_spoof', frame: from4(() => '127.0.0.1') },
  { what: 'a multicast address as sender', reason: 'ip_spoof', frame: from4(() => '224.0.0.1') },
  {
    what: 'a tiny first fragment from a foreign address',
    reason: 'ip_spoof',
    frame: (w, t) => by4(w, ipv4(6, w.other.ip, w.gateway.ip, t, '', '2000')),
  },
  {
    what: 'a non-first fragment from a foreign address',
    reason: 'ip_spoof',
    frame: (w, t) => by4(w, ipv4(17, w.other.ip, w.gateway.ip, t, '', '0001')),
  },
  {
    what: 'a loose source route',
    reason: 'source_route',
    frame: (w, t) => by4(w, ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t), `830704${ip(w.gateway.ip)}00`)),
    valid: (w, t) => by4(w, ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t), '94040000')),
  },
  {
    what: 'a strict source route',
    reason: 'source_route',
    frame: (w, t) => by4(w, ipv4(6, w.me.ip, w.other.ip, syn(w.me.ip, w.other.ip, t), `01890704${ip(w.gateway.ip)}`)),
  },

  // servers and routers
  {
    what: 'a DHCP offer',
    reason: 'rogue_dhcp',
    frame: (w, t) => by4(w, ipv4(17, w.me.ip, '255.255.255.255', offer(t))),
    valid: (w, t) => by4(w, ipv4(17, w.me.ip, '255.255.255.255', udp(4067, 68, t))),
  },
  {
    what: 'a DHCP acknowledgement from the gateway’s address',
    reason: 'rogue_dhcp',
    frame: (w, t) => by4(w, ipv4(17, w.gateway.ip, w.other.ip, offer(t)), w.other.mac),
  },
  { what: 'a DHCP offer after IPv4 options', reason: 'rogue_dhcp', frame: (w, t) => by4(w, ipv4(17, w.me.ip, '255.255.255.255', offer(t), '94040000')) },
  {
    what: 'a DHCP offer in a tiny first fragment',
    reason: 'rogue_dhcp',
    frame: (w, t) => by4(w, ipv4(17, w.me.ip, '255.255.255.255', udp(67, 68, t), '', '2000')),
  },
  {
    what: 'an ICMP redirect',
    reason: 'rogue_ra',
    frame: (w, t) => by4(w, ipv4(1, w.me.ip, w.other.ip, icmp('0501', `${ip(w.me.ip)}${ipv4(17, w.other.ip, w.outside, udp(1, 2, t))}`)), w.other.mac),
    valid: (w, t) => by4(w, ipv4(1, w.me.ip, w.other.ip, echo(t)), w.other.mac),
  },
  {
    what: 'an ICMP redirect from the gateway’s address',
    reason: 'rogue_ra',
    frame: (w, t) => by4(w, ipv4(1, w.gateway.ip, w.other.ip, icmp('0501', `${ip(w.me.ip)}${ipv4(17, w.other.ip, w.outside, udp(1, 2, t))}`)), w.other.mac),
  },
  {
    what: 'an ICMP router advertisement',
    reason: 'rogue_ra',
    frame: (w, t) => by4(w, ipv4(1, w.me.ip, '224.0.0.1', icmp('0900', `01020708${ip(w.me.ip)}00000001${t}`)), GROUP4),
  },

  // IPv6: routers and servers
  { what: 'a router advertisement', reason: 'rogue_ra', frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, routerAdvert(t))), valid: valid6 },
  {
    what: 'a router advertisement from the gateway’s address',
    reason: 'rogue_ra',
    frame: (w, t) => by6(w, ipv6(linkLocal(w.gateway.mac), NODES, 58, routerAdvert(t))),
  },
  {
    what: 'a router advertisement after a hop-by-hop header',
    reason: 'rogue_ra',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, routerAdvert(t), 0, SHORT_HEADER)),
    valid: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(128, `00010001${t}`), 0, SHORT_HEADER)),
  },
  {
    what: 'a router advertisement after destination options and a routing header',
    reason: 'rogue_ra',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, routerAdvert(t), 60, `2b000104000000003a00000000000000`)),
  },
  {
    what: 'a router advertisement in an atomic fragment',
    reason: 'rogue_ra',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, routerAdvert(t), 44, '3a00000000001234')),
  },
  {
    what: 'a first fragment without its ICMPv6 header',
    reason: 'malformed',
    frame: (w, t) =>
      by6(
        w,
        ipv6(mine6(w), NODES, 58, () => '', 44, `3c00000100001234${'3a01'}0c0c${t}${'00'.repeat(12 - size(t))}`),
      ),
  },
  {
    what: 'a non-first fragment that begins with extension headers',
    reason: 'malformed',
    frame: (w, t) =>
      by6(
        w,
        ipv6(mine6(w), NODES, 58, () => t, 44, '3c00000800001234'),
      ),
  },
  {
    what: 'a neighbour advertisement with an option of length zero',
    reason: 'malformed',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(136, `60000000${mine6(w)}0200${w.me.mac}${unknown(t)}`))),
    valid: validAdvert,
  },
  {
    what: 'a neighbour solicitation with an option of length zero',
    reason: 'malformed',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(135, `00000000${linkLocal(w.other.mac)}0100${w.me.mac}${unknown(t)}`))),
    valid: validSolicit,
  },
  {
    what: 'a router solicitation with an option of length zero',
    reason: 'malformed',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(133, `000000000100${w.me.mac}${unknown(t)}`))),
    valid: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(133, `00000000${link(1, w.me.mac)}${unknown(t)}`))),
  },
  {
    what: 'a neighbour advertisement whose second option has length zero',
    reason: 'malformed',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(136, `60000000${mine6(w)}${link(2, w.me.mac)}${unknown(t).replace('fd02', 'fd00')}`))),
  },
  {
    what: 'a neighbour solicitation whose third option has length zero',
    reason: 'malformed',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(135, `00000000${linkLocal(w.other.mac)}${link(1, w.me.mac)}${unknown(t)}0e00${'00'.repeat(6)}`))),
    valid: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(135, `00000000${linkLocal(w.other.mac)}${link(1, w.me.mac)}${unknown(t)}0e01${'00'.repeat(6)}`))),
  },
  {
    what: 'a neighbour advertisement whose last option ends beyond the message',
    reason: 'malformed',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(136, `60000000${mine6(w)}${link(2, w.me.mac)}${unknown(t).replace('fd02', 'fd03')}`))),
  },
  {
    what: 'a router solicitation with half an option',
    reason: 'malformed',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(133, `00000000${unknown(t)}0e010000`))),
  },
  {
    what: 'a neighbour solicitation with a foreign MAC and an option of length zero',
    reason: 'malformed',
    frame: (w, t) =>
      by6(w, ipv6(mine6(w), NODES, 58, icmp6(135, `00000000${linkLocal(w.other.mac)}${link(1, w.other.mac)}${unknown(t)}0e00${'00'.repeat(6)}`))),
  },
  {
    what: 'an IPv6 redirect',
    reason: 'rogue_ra',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(137, `00000000${mine6(w)}${linkLocal(w.other.mac)}${unknown(t)}`))),
  },
  {
    what: 'the answer of a DHCPv6 server',
    reason: 'rogue_dhcp',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 17, udp6(547, 546, `02${t}`))),
    valid: (w, t) => by6(w, ipv6(mine6(w), NODES, 17, udp6(546, 547, `01${t}`))),
  },
  {
    what: 'the answer of a DHCPv6 server after destination options',
    reason: 'rogue_dhcp',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 17, udp6(547, 546, `02${t}`), 60, '1100010400000000')),
  },

  // IPv6 from a foreign address
  {
    what: 'an advertisement of another VM’s address',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, advertise(linkLocal(w.other.mac), w.me.mac, t))),
    valid: validAdvert,
  },
  {
    what: 'an advertisement of an address that another VM holds',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, advertise(HELD, w.me.mac, t))),
  },
  {
    what: 'an advertisement of the gateway’s address',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, advertise(linkLocal(w.gateway.mac), w.me.mac, t))),
  },
  {
    what: 'an advertisement with a foreign MAC inside',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, advertise(mine6(w), w.other.mac, t))),
  },
  {
    what: 'a solicitation from another VM’s address',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(linkLocal(w.other.mac), NODES, 58, solicit(mine6(w), w.me.mac, t))),
    valid: validSolicit,
  },
  {
    what: 'a solicitation from an address that another VM holds',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(HELD, NODES, 58, solicit(mine6(w), w.me.mac, t))),
  },
  {
    what: 'a solicitation with a foreign MAC inside',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, solicit(linkLocal(w.other.mac), w.other.mac, t))),
  },
  {
    what: 'a router solicitation with a foreign MAC inside',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, icmp6(133, `00000000${link(1, w.other.mac)}${unknown(t)}`))),
  },
  {
    what: 'an advertisement with a foreign MAC after a hop-by-hop header',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, advertise(mine6(w), w.gateway.mac, t), 0, SHORT_HEADER)),
  },
  {
    what: 'an advertisement in fragments',
    reason: 'nd_spoof',
    frame: (w, t) => by6(w, ipv6(mine6(w), NODES, 58, advertise(mine6(w), w.me.mac, t), 44, '3a00000100001234')),
  },
  { what: 'another VM’s link-local address', reason: 'ip_spoof', frame: from6((w) => linkLocal(w.other.mac)), valid: valid6 },
  { what: 'an IPv6 address that another VM holds', reason: 'ip_spoof', frame: from6(() => HELD) },
  {
    what: 'a global address derived from another VM’s MAC',
    reason: 'ip_spoof',
    frame: from6((w) => linkLocal(w.other.mac, 'fd00000000000001')),
    valid: from6((w) => linkLocal(w.me.mac, 'fd00000000000001')),
  },
  { what: 'the gateway’s IPv6 address', reason: 'ip_spoof', frame: from6((w) => linkLocal(w.gateway.mac)) },
  {
    what: 'no IPv6 address',
    reason: 'ip_spoof',
    frame: from6(() => ANY6),
    valid: (w, t) => by6(w, ipv6(ANY6, NODES, 58, icmp6(135, `00000000${linkLocal(w.other.mac)}${unknown(t)}`))),
  },
  { what: 'the IPv6 loopback address as sender', reason: 'ip_spoof', frame: from6(() => `${'0'.repeat(31)}1`) },
  { what: 'an IPv6 multicast address as sender', reason: 'ip_spoof', frame: from6(() => NODES) },

  // not IP
  {
    what: 'a VLAN tag',
    reason: 'ethertype',
    frame: (w, t) => ethernet(ALL, w.me.mac, '8100', `00640800${ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))}${PAD}`),
    valid: valid4,
  },
  {
    what: 'an ARP reply for the gateway’s address after a priority tag',
    reason: 'ethertype',
    frame: (w, t) => ethernet(ALL, w.me.mac, '8100', `00000806${arp(2, w.me.mac, w.gateway.ip, w.other.ip, t)}`),
  },
  {
    what: 'two VLAN tags',
    reason: 'ethertype',
    frame: (w, t) => ethernet(ALL, w.me.mac, '88a8', `0064810000c80800${ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))}${PAD}`),
  },
  { what: 'spanning tree', reason: 'ethertype', frame: (w, t) => ethernet('0180c2000000', w.me.mac, '0026', `4242030000000000${t}${PAD}`) },
  { what: 'a pause frame', reason: 'ethertype', frame: (w, t) => ethernet('0180c2000001', w.me.mac, '8808', `0001ffff${t}${PAD}`) },
  { what: 'LLDP', reason: 'ethertype', frame: (w, t) => ethernet('0180c200000e', w.me.mac, '88cc', `0207044d${t}${PAD}`) },
  { what: '802.1X', reason: 'ethertype', frame: (w, t) => ethernet('0180c2000003', w.me.mac, '888e', `01010000${t}${PAD}`) },
  ...[0, 1, 2, 14, 15].map((n): Spoof => {
    const group = `0180c20000${h(n, 1)}`;
    return {
      what: `IPv4 to the link-local group ${group}`,
      reason: 'ethertype',
      frame: (w, t) => by4(w, ipv4(17, w.me.ip, w.gateway.ip, udp(4000, 4001, t)), group),
    };
  }),
  {
    what: 'a router advertisement to LLDP’s group',
    reason: 'ethertype',
    frame: (w, t) => ethernet('0180c200000e', w.me.mac, '86dd', ipv6(mine6(w), NODES, 58, routerAdvert(t))),
  },
  {
    what: 'an ARP reply for the gateway’s address to LLDP’s group',
    reason: 'ethertype',
    frame: (w, t) => ethernet('0180c200000e', w.me.mac, '0806', arp(2, w.me.mac, w.gateway.ip, w.other.ip, t)),
  },
  {
    what: 'IPv4 in an 802.3 frame',
    reason: 'ethertype',
    frame: (w, t) =>
      ethernet(
        ALL,
        w.me.mac,
        h(8 + size(ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))), 2),
        `aaaa030000000800${ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))}`,
      ),
  },
  { what: 'a PPPoE discovery', reason: 'ethertype', frame: (w, t) => ethernet(ALL, w.me.mac, '8863', `11090000000c${t}${PAD}`) },
  { what: 'MPLS', reason: 'ethertype', frame: (w, t) => ethernet(ALL, w.me.mac, '8847', `00010140${ipv4(17, w.me.ip, w.other.ip, udp(4000, 4001, t))}${PAD}`) },
];

/** An address that the other guest has claimed by using it. */
export const HELD = `fd00${'0'.repeat(26)}77`;

/** From any guest: what the gateway does not forward. All are sent to its MAC address. */
const toGateway =
  (packet: (w: SpoofWorld, t: Hex) => Hex, type = '0800') =>
  (w: SpoofWorld, t: Hex) =>
    ethernet(w.gateway.mac, w.me.mac, type, packet(w, t));
const validToHost = toGateway((w, t) => ipv4(17, w.me.ip, w.gateway.ip, udp(4000, 4001, t)));
const UNCARRIED = { kernel: 'prohibited', user: 'protocol' };
export const NOT_CARRIED: readonly Spoof[] = [
  { what: 'to the host’s loopback', reason: 'prohibited', frame: toGateway((w, t) => ipv4(17, w.me.ip, '127.0.0.1', udp(4000, 4001, t))) },
  { what: 'TCP to the host’s loopback', reason: 'prohibited', frame: toGateway((w, t) => ipv4(6, w.me.ip, '127.0.0.1', syn(w.me.ip, '127.0.0.1', t))) },
  { what: 'to a guest of the other network', reason: 'prohibited', frame: toGateway((w, t) => ipv4(17, w.me.ip, w.elsewhere, udp(4000, 4001, t))) },
  {
    what: 'IPv6 that the gateway should route',
    reason: UNCARRIED,
    frame: toGateway((w, t) => ipv6(linkLocal(w.me.mac, 'fd00000000000001'), `20010db8${'0'.repeat(23)}1`, 17, udp6(4000, 4001, t)), '86dd'),
  },
];
/** From a guest of the host network, in addition: nothing leaves the host. */
export const NOT_LEAVING: readonly Spoof[] = [
  { what: 'UDP to the outside', reason: 'prohibited', frame: toGateway((w, t) => ipv4(17, w.me.ip, w.outside, udp(4000, 4001, t))), valid: validToHost },
  { what: 'TCP to the outside', reason: 'prohibited', frame: toGateway((w, t) => ipv4(6, w.me.ip, w.outside, syn(w.me.ip, w.outside, t))) },
  { what: 'an echo to the outside', reason: 'prohibited', frame: toGateway((w, t) => ipv4(1, w.me.ip, w.outside, echo(t))) },
  {
    what: 'GRE to the outside',
    reason: UNCARRIED,
    frame: toGateway((w, t) => ipv4(47, w.me.ip, w.outside, `00000800${ipv4(17, w.me.ip, w.outside, udp(4000, 4001, t))}`)),
  },
  {
    what: 'IPv4 in IPv4 to the outside',
    reason: UNCARRIED,
    frame: toGateway((w, t) => ipv4(4, w.me.ip, w.outside, ipv4(17, w.me.ip, w.outside, udp(4000, 4001, t)))),
  },
  {
    what: 'IPv6 in IPv4 to the outside',
    reason: UNCARRIED,
    frame: toGateway((w, t) => ipv4(41, w.me.ip, w.outside, ipv6(mine6(w), NODES, 17, udp6(4000, 4001, t)))),
  },
];
