/**
 * Translates between the MAC address that a guest sees and the one that its network sees (B41), in place, one frame at
 * a time.
 *
 * Theory of operation: the address occurs in the Ethernet header, in ARP, in DHCP (chaddr, and option 61 of type 1) and
 * in the options of IPv6 neighbour discovery. Checksums over it are updated incrementally (RFC 1624), so that a wrong
 * one stays wrong. Up to two 802.1Q tags are skipped. Only the card's own address is replaced; the guard sees
 * everything else as the guest sent it.
 *
 * Limits: of fragmented packets only the Ethernet header is translated.
 */
import { arpSenderMac, arpTargetMac, checkArp, setArpSenderMac, setArpTargetMac } from '../../wire/arp.ts';
import { fold16, get16, get32, put16, sum16 } from '../../wire/bytes.ts';
import { ETH, EtherType, readMac, writeMac } from '../../wire/ethernet.ts';
import { IPV4, IpProtocol } from '../../wire/ipv4.ts';
import { eachLinkAddress, findUpper, Ipv6Next, type Ipv6Upper, ndOptionsAt } from '../../wire/ipv6.ts';
import { checkUdp, UDP_HEADER, udpChecksumAt, udpDestination, udpSource } from '../../wire/udp.ts';

const SERVICE_VLAN = 0x88a8;
const MAGIC_COOKIE = 0x63825363;
/** Offsets and option codes of a DHCP message. */
const DHCP = { chaddr: 28, cookie: 236, options: 240, clientId: 61, end: 255 } as const;

/** A frame from the guest: inside becomes outside. */
export function translateFromGuest(b: Uint8Array, o: number, end: number, inside: number, outside: number): void {
  if (end - o < ETH.payload) return;
  if (readMac(b, o + ETH.source) === inside) writeMac(b, o + ETH.source, outside);
  translatePayload(b, o, end, inside, outside, true);
}

/** A frame to the guest: outside becomes inside. */
export function translateToGuest(b: Uint8Array, o: number, end: number, inside: number, outside: number): void {
  if (end - o < ETH.payload) return;
  if (readMac(b, o + ETH.destination) === outside) writeMac(b, o + ETH.destination, inside);
  translatePayload(b, o, end, outside, inside, false);
}

function translatePayload(b: Uint8Array, o: number, end: number, from: number, to: number, sent: boolean): void {
  let at = o + ETH.payload;
  let type = get16(b, o + ETH.type);
  for (let tags = 0; tags < 2 && (type === EtherType.vlan || type === SERVICE_VLAN) && at + 4 <= end; tags++) {
    type = get16(b, at + 2);
    at += 4;
  }
  if (type === EtherType.arp) {
    if (!checkArp(b, at, end)) return;
    if (sent && arpSenderMac(b, at) === from) setArpSenderMac(b, at, to);
    if (arpTargetMac(b, at) === from) setArpTargetMac(b, at, to);
  } else if (type === EtherType.ipv4) translateDhcp(b, at, end, from, to, sent);
  else if (type === EtherType.ipv6) translateNeighbourDiscovery(b, at, end, from, to);
}

function translateDhcp(b: Uint8Array, ip: number, end: number, from: number, to: number, sent: boolean): void {
  if (end - ip < 20 || b[ip + IPV4.protocol] !== IpProtocol.udp || get16(b, ip + IPV4.fragment) & 0x3fff) return;
  const udp = ip + ((b[ip] & 15) << 2);
  const stop = checkUdp(b, udp, end);
  if (stop === 0 || udpSource(b, udp) !== (sent ? 68 : 67) || udpDestination(b, udp) !== (sent ? 67 : 68)) return;
  const m = udp + UDP_HEADER;
  if (stop - m < DHCP.options || get32(b, m + DHCP.cookie) !== MAGIC_COOKIE) return;
  const check = get16(b, udpChecksumAt(udp)) === 0 ? -1 : udpChecksumAt(udp);
  replace(b, m + DHCP.chaddr, from, to, udp, check, true);
  for (let o = m + DHCP.options; o + 1 < stop && b[o] !== DHCP.end; ) {
    if (b[o] === 0) {
      o++;
      continue;
    }
    const n = b[o + 1];
    if (o + 2 + n > stop) return;
    if (b[o] === DHCP.clientId && n === 7 && b[o + 2] === 1) replace(b, o + 3, from, to, udp, check, true);
    o += 2 + n;
  }
}

const upper: Ipv6Upper = { protocol: -1, start: 0, at: 0, end: 0, fragment: false, later: false };

function translateNeighbourDiscovery(b: Uint8Array, ip: number, end: number, from: number, to: number): void {
  findUpper(b, ip, end, upper);
  if (upper.protocol !== Ipv6Next.icmp || upper.fragment) return;
  const options = ndOptionsAt(b, upper.at, upper.end);
  const { at: icmp, end: stop } = upper;
  if (options !== 0) eachLinkAddress(b, options, stop, (at) => replace(b, at, from, to, icmp, icmp + 2, false));
}

/**
 * Replaces the address at `at` if it is `from`, and updates the checksum at `check` (-1 = none) of the region that
 * begins at `start`.
 */
function replace(b: Uint8Array, at: number, from: number, to: number, start: number, check: number, udp: boolean): void {
  if (readMac(b, at) !== from) return;
  const first = at - ((at - start) & 1);
  const last = at + 6 + ((at - start) & 1);
  const before = fold16(sum16(b, first, last));
  writeMac(b, at, to);
  if (check < 0) return;
  const after = fold16(sum16(b, first, last));
  const sum = ~fold16((~get16(b, check) & 0xffff) + (~before & 0xffff) + after) & 0xffff;
  put16(b, check, udp && sum === 0 ? 0xffff : sum);
}
