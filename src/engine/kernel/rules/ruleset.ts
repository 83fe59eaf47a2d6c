/**
 * The nft rules of a desired state: pure, from state to text.
 *
 * Theory of operation: one table per family, rendered whole and replaced in one transaction. Per-card data stands in
 * sets and maps, so the chains are the same for one VM and for two hundred. Table `bridge anka` is the guard (B91): a
 * card speaks with its own MAC and its own address. An address that nobody owns may be claimed by ARP (B50): the claim
 * goes into a set with a timeout, and the engine makes it the card's own when it sees it. Table `ip anka` holds NAT,
 * forwarding (DNAT), isolation from outside, and the port rewriting of DHCP and DNS. Table `ip6 anka` keeps IPv6 from
 * crossing the bridges. `meta protocol arp` stands where nft would look at the type behind the addresses, which of a
 * frame in a VLAN is the tag's. Bridged cards speak with their own MAC and without the host's address, and are no
 * routers and no DHCP servers (docs/decisions/0009); which other IPv4 addresses they use is their network's business,
 * and only noted. IPv6 addresses are held by the card that had them first, on every network (ipv6.ts).
 *
 * Table `netdev anka` drops what the bridge would not show to these rules (ingress.ts).
 *
 * Drops are counted per card and reason in sets named `drop_…`, as nft has no counters by interface: by the card's
 * interface in tables bridge and netdev, and by its MAC address in the others, which see the bridge as the interface.
 *
 * Limits: nft 1.0.6 garbles concatenated maps in its JSON, so these are only ever written.
 */
import { CLAIMS_MOST, CLAIMS_MS, DHCP_MOST, DHCP_MS, NAMES_MOST, NAMES_MS } from '../../../net/gateway/service-rates.ts';
import { broadcastOf, formatIpv4, formatMac, formatSubnet, gatewayOf, parseMac } from '../../../wire/address.ts';
import type { DesiredNetwork, DesiredRule } from '../../engine.ts';
import { BRIDGES, bridgeMac, DHCP_PORTS, DNS_PORT, PLUG_PREFIX, SEGMENT_PREFIX, TABLES, tapName } from '../names.ts';
import { type CardTap, ingressTable } from './ingress.ts';
import { ipv6Chains, ipv6Sets } from './ipv6.ts';
import { domainOf, type RuledNic, type Segments } from './rule-input.ts';

/** Reasons for which the guard drops, in the order of the sets. */
const GUARD_REASONS = [
  'mac_spoof',
  'arp_spoof',
  'ip_spoof',
  'rogue_dhcp',
  'rogue_ra',
  'nd_spoof',
  'source_route',
  'address_limit',
  'malformed',
  'ethertype',
  'isolated',
] as const;
/**
 * All reasons: with those of what is not carried from this network to there, and of what is too much for the gateway's
 * services.
 */
export const DROP_REASONS = [...GUARD_REASONS, 'prohibited', 'rate_limit'] as const;

const CLAIM_TIMEOUT = '10m';
/** Sets of the addresses of bridged guests: claimed by ARP, given by DHCP. */
export const ADDRESS_SETS = ['seen', 'given'] as const;
const SEEN_TIMEOUT = '1h';
/** New addresses of one bridged card that are noted at once, and in an hour. */
const NOTED = 32;

const list = (items: readonly string[]): string => (items.length > 0 ? ` elements = { ${items.join(', ')} }` : '');
const q = (name: string): string => `"${name}"`;

/** A match, in a dynamic set: one key comes more often than so many times at once, and in so many ms. */
const tooMany = (most: number, ms: number): string => `limit rate over ${(most * 1000) / ms}/second burst ${most} packets`;
const dropAs = (reason: string, key: 'iifname' | 'ether saddr'): string => `update @drop_${reason} { ${key} counter } drop`;

/** A rule is in force where there is a gateway: shared and host (B66), and a guest with an address. */
function liveRules(nics: readonly RuledNic[]): { rule: DesiredRule; ip: number }[] {
  return nics.flatMap(({ nic, ip }) => (ip !== null && (nic.type === 'shared' || nic.type === 'host') ? nic.rules.map((rule) => ({ rule, ip })) : []));
}

/** Everything, as one transaction for `nft -f`. */
export function renderRuleset(networks: readonly DesiredNetwork[], nics: readonly RuledNic[], segments: Segments, taps: readonly CardTap[]): string {
  const ingress = ingressTable(taps, (reason) => dropAs(reason, 'iifname'));
  return [removeTables(), ipTable(networks, nics), ip6Table(networks), bridgeTable(networks, nics, segments), ingress].join('\n');
}

/** Removes our tables whether they are there or not. */
export function removeTables(): string {
  return TABLES.map(([f, t]) => `table ${f} ${t}\ndelete table ${f} ${t}`).join('\n');
}

function ipTable(networks: readonly DesiredNetwork[], nics: readonly RuledNic[]): string {
  const bridges = networks.map((n) => q(BRIDGES[n.name]));
  const ours = `{ ${bridges.join(', ')} }`;
  const subnets = networks.map((n) => formatSubnet(n.subnet));
  const rules = liveRules(nics);
  const any = rules.filter((r) => r.rule.hostIp === 0).map(({ rule, ip }) => `${rule.protocol} . ${rule.hostPort} : ${formatIpv4(ip)} . ${rule.guestPort}`);
  const one = rules
    .filter((r) => r.rule.hostIp !== 0)
    .map(({ rule, ip }) => `${formatIpv4(rule.hostIp)} . ${rule.protocol} . ${rule.hostPort} : ${formatIpv4(ip)} . ${rule.guestPort}`);
  const live = [...new Set(rules.map(({ rule, ip }) => `${rule.protocol} . ${rule.hostPort} . ${formatIpv4(ip)} . ${rule.guestPort}`))];
  const isolated = [...new Set(nics.flatMap(({ nic, ip }) => (nic.isolated ? [ip, nic.reservedIp ?? null] : [])))].filter((a) => a !== null).map(formatIpv4);
  const isolatedPorts = [
    ...new Set(nics.flatMap(({ nic, ip }) => (nic.isolated && ip !== null ? nic.rules.map((r) => `${formatIpv4(ip)} . ${r.protocol} . ${r.guestPort}`) : []))),
  ];
  const shared = networks.find((n) => n.name === 'shared');
  // on host, no resolver of the host's own answers either: it would tell of, and talk to, the outside
  const dnsIn = networks.map(
    (n) =>
      `    iifname ${q(BRIDGES[n.name])} ${n.name === 'host' ? 'fib daddr type local' : `ip daddr ${formatIpv4(gatewayOf(n.subnet))}`} meta l4proto { tcp, udp } th dport 53 redirect to :${DNS_PORT}`,
  );
  const [prohibited, isolatedDrop, rateLimit] = (['prohibited', 'isolated', 'rate_limit'] as const).map((reason) => dropAs(reason, 'ether saddr'));
  if (networks.length === 0) return 'table ip anka {\n}';
  return `table ip anka {
  set drop_prohibited { type ether_addr; size 65535; flags dynamic; }
  set drop_isolated { type ether_addr; size 65535; flags dynamic; }
  set drop_rate_limit { type ether_addr; size 65535; flags dynamic; }
  set names { type ether_addr; size 65535; flags dynamic; }
  set dhcp { type ether_addr; size 65535; flags dynamic; }
  map forward_any { type inet_proto . inet_service : ipv4_addr . inet_service;${list(any)}; }
  map forward_one { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;${list(one)}; }
  set forward_live { type inet_proto . inet_service . ipv4_addr . inet_service;${list(live)}; }
  set isolated { type ipv4_addr;${list(isolated)}; }
  set isolated_ports { type ipv4_addr . inet_proto . inet_service;${list(isolatedPorts)}; }
  set subnets { type ipv4_addr; flags interval;${list(subnets)}; }

${networks
  .map(
    (n) => `  chain from_${n.name} {
    ip daddr 127.0.0.0/8 ${prohibited} comment "the host's loopback is its own"
    ip saddr 127.0.0.0/8 ${prohibited}
${n.name === 'host' && shared ? `    ip daddr ${formatSubnet(shared.subnet)} ${prohibited} comment "not even the other gateway"\n` : ''}    meta l4proto udp jump requests_${n.name}
  }
  chain requests_${n.name} {
    udp dport 53${n.name === 'host' ? '' : ` ip daddr ${formatIpv4(gatewayOf(n.subnet))}`} update @names { ether saddr ${tooMany(NAMES_MOST, NAMES_MS)} } ${rateLimit}
    udp dport 67 update @dhcp { ether saddr ${tooMany(DHCP_MOST, DHCP_MS)} } ${rateLimit}
    udp dport 67 udp dport set ${DHCP_PORTS[n.name]}
  }`,
  )
  .join('\n')}
  chain rewrite_in {
    type filter hook prerouting priority raw; policy accept;
    iifname ${q(`${SEGMENT_PREFIX}*`)} notrack accept comment "with br_netfilter: what stays on a segment, or has yet to come to the host, is not ours to translate"
    iifname vmap { ${networks.map((n) => `${q(BRIDGES[n.name])} : goto from_${n.name}`).join(', ')}, "lo" : accept }
    ip daddr @subnets counter drop comment "from outside only through a forwarding rule"
  }
  chain rewrite_out {
    type filter hook output priority raw; policy accept;
    udp sport { ${networks.map((n) => DHCP_PORTS[n.name]).join(', ')} } udp dport 68 udp sport set 67
  }
  chain forwards {
    dnat ip to ip daddr . meta l4proto . th dport map @forward_one
    dnat ip to meta l4proto . th dport map @forward_any
  }
  chain dstnat {
    type nat hook prerouting priority dstnat; policy accept;
${dnsIn.join('\n')}
    iifname != ${ours} meta l4proto { tcp, udp } fib daddr type local jump forwards
  }
  chain dstnat_out {
    type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 meta l4proto { tcp, udp } fib daddr type local jump forwards
  }
  chain srcnat {
    type nat hook postrouting priority srcnat; policy accept;
${shared ? `    ip saddr ${formatSubnet(shared.subnet)} oifname != ${ours} masquerade` : ''}
  }
  chain cut {
    meta l4proto tcp counter reject with tcp reset
    counter drop
  }
  chain forwarded {
    ct state related accept comment "ICMP errors, for path MTU discovery"
    meta l4proto { tcp, udp } meta l4proto . ct original proto-dst . ip daddr . th dport @forward_live accept
    goto cut
  }
  chain answered {
    ct state related accept
    meta l4proto { tcp, udp } meta l4proto . ct original proto-dst . ip saddr . th sport @forward_live accept
    goto cut
  }
  chain forward {
    type filter hook forward priority filter - 5; policy accept;
    iifname ${ours} oifname != ${ours} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu comment "no segment larger than the way"
    iifname != ${ours} oifname ${ours} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
    ct status dnat ct direction original oifname ${ours} goto forwarded
    ct status dnat ct direction reply iifname ${ours} goto answered
    iifname ${ours} oifname ${ours} ip saddr @isolated ${isolatedDrop} comment "--no-local, by way of the gateway"
    iifname ${ours} oifname ${ours} ip daddr @isolated ${isolatedDrop}
${shared ? `    iifname ${q(BRIDGES.shared)} oifname != ${ours} ip saddr ${formatSubnet(shared.subnet)} accept\n    iifname != ${ours} oifname ${q(BRIDGES.shared)} ct state established,related accept` : ''}
${networks.map((n) => `    iifname ${q(BRIDGES[n.name])} oifname ${q(BRIDGES[n.name])} accept comment "between VMs; seen here only with br_netfilter"`).join('\n')}
    iifname ${q(BRIDGES.host)} ct direction reply ct status dnat accept
    iifname ${q(BRIDGES.host)} ${prohibited} comment "host network: nothing leaves the host"
    oifname ${q(BRIDGES.host)} ct status dnat accept
    iifname ${ours} oifname ${q(BRIDGES.host)} ${prohibited}
    oifname ${q(BRIDGES.host)} counter drop
${shared ? `    iifname ${q(BRIDGES.shared)} ip saddr != ${formatSubnet(shared.subnet)} ${prohibited}` : ''}
    iifname ${q(BRIDGES.shared)} accept
    oifname ${q(BRIDGES.shared)} ct state established,related accept
    oifname ${q(BRIDGES.shared)} ct status dnat accept
    oifname ${q(BRIDGES.shared)} counter drop
  }
  chain input {
    type filter hook input priority filter - 5; policy accept;
    iifname ${ours} ip saddr @isolated ct state established,related accept
    iifname ${ours} ip saddr @isolated udp dport { 67, ${networks.map((n) => DHCP_PORTS[n.name]).join(', ')}, ${DNS_PORT} } accept
    iifname ${ours} ip saddr @isolated tcp dport ${DNS_PORT} accept
    iifname ${ours} ip saddr @isolated ${isolatedDrop} comment "--no-local"
  }
  chain output {
    type filter hook output priority filter - 5; policy accept;
    oifname ${ours} ip daddr @isolated ct state established,related accept
    oifname ${ours} ip daddr @isolated udp dport 68 accept
    oifname ${ours} ip daddr @isolated ip daddr . meta l4proto . th dport @isolated_ports accept
    oifname ${ours} ip daddr @isolated counter drop comment "--no-local"
  }
}`;
}

function ip6Table(networks: readonly DesiredNetwork[]): string {
  if (networks.length === 0) return 'table ip6 anka {\n}';
  const ours = `{ ${networks.map((n) => q(BRIDGES[n.name])).join(', ')} }`;
  const prohibited = dropAs('prohibited', 'ether saddr');
  return `table ip6 anka {
  set drop_prohibited { type ether_addr; size 65535; flags dynamic; }
  chain forward {
    type filter hook forward priority filter - 5; policy accept;
${networks.map((n) => `    iifname ${q(BRIDGES[n.name])} oifname ${q(BRIDGES[n.name])} accept comment "between VMs; seen here only with br_netfilter"`).join('\n')}
    iifname ${ours} ${prohibited} comment "IPv6 stays on its network"
    oifname ${ours} counter drop
  }
  chain arrive {
    type filter hook prerouting priority raw; policy accept;
${networks.map((n) => `    iifname ${q(BRIDGES[n.name])} ether daddr ${bridgeMac(n.name)} ip6 daddr != { fe80::/10, ff00::/8 } fib daddr type != local ${prohibited} comment "the host is no router of it"`).join('\n')}
  }
  chain input {
    type filter hook input priority filter - 5; policy accept;
    iifname ${q(BRIDGES.host)} meta l4proto { tcp, udp } th dport 53 ${prohibited} comment "host network: names of outside stay unknown"
  }
}`;
}

function bridgeTable(networks: readonly DesiredNetwork[], nics: readonly RuledNic[], segments: Segments): string {
  const plugged = nics.filter(({ nic }) => nic.type !== 'disconnected');
  const bridged = plugged.filter(({ nic }) => nic.type === 'bridge');
  const served = plugged.filter(({ nic }) => nic.type !== 'bridge');
  const taps = plugged.map(({ nic }) => `${q(tapName(nic.id))} : jump ${nic.type === 'bridge' ? `bridged_${domainOf(nic)}` : `on_${nic.type}`}`);
  const macs = plugged.map(({ nic }) => `${q(tapName(nic.id))} . ${formatMac(nic.outsideMac)}`);
  const owned = new Set<string>();
  const addresses = new Set<string>();
  for (const { nic, ip } of served) {
    for (const a of [ip, nic.reservedIp ?? null]) {
      if (a === null) continue;
      addresses.add(`${q(tapName(nic.id))} . ${formatIpv4(a)}`);
      owned.add(formatIpv4(a));
    }
  }
  for (const n of networks) for (const a of [n.subnet.base, gatewayOf(n.subnet), broadcastOf(n.subnet)]) owned.add(formatIpv4(a));
  const known = served.flatMap(({ nic, ip }) => (ip === null ? [] : [`${q(tapName(nic.id))} . ${formatMac(nic.outsideMac)} . ${formatIpv4(ip)}`]));
  const isolated = served.filter(({ nic }) => nic.isolated).map(({ nic }) => q(tapName(nic.id)));
  const lone = plugged.filter(({ nic }) => nic.isolated && nic.type === 'bridge').map(({ nic }) => q(tapName(nic.id)));
  const all = plugged.map(({ nic }) => q(tapName(nic.id)));
  const inSegments = bridged.filter(({ nic }) => segments.nics.has(nic.id)).map(({ nic }) => q(tapName(nic.id)));
  const drop = (reason: (typeof GUARD_REASONS)[number]): string => dropAs(reason, 'iifname');
  const bridges = [...new Set(bridged.map(({ nic }) => domainOf(nic)))];
  const domains = [...networks.map((n) => n.name as string), ...bridges];
  const gatewayMacs = networks.map((n) => parseMac(bridgeMac(n.name)) as number);
  const onNetwork = networks.map(
    (n) => `  chain on_${n.name} {
    iifname . ether saddr != @mac ${drop('mac_spoof')}
    ether type arp jump arp_${n.name}
    ether type ip jump check_ip4
    ether type ip6 goto ip6_${n.name}
    ${drop('ethertype')}
  }
  chain arp_${n.name} {
    iifname . arp saddr ether != @mac ${drop('arp_spoof')}
    arp saddr ip 0.0.0.0 accept
    iifname . arp saddr ip @address accept
    arp saddr ip @owned ${drop('arp_spoof')}
    arp saddr ip != ${formatSubnet(n.subnet)} ${drop('arp_spoof')}
    iifname . arp saddr ip != @claim update @new4 { iifname ${tooMany(CLAIMS_MOST, CLAIMS_MS)} } ${drop('address_limit')}
    update @claim { iifname . arp saddr ip timeout ${CLAIM_TIMEOUT} } accept
    ${drop('arp_spoof')}
  }`,
  );
  return `table bridge anka {
${GUARD_REASONS.map((r) => `  set drop_${r} { type ifname; size 65535; flags dynamic; }`).join('\n')}
  set mac { type ifname . ether_addr;${list(macs)}; }
  set address { type ifname . ipv4_addr;${list([...addresses])}; }
  set known { type ifname . ether_addr . ipv4_addr;${list(known)}; }
  set owned { type ipv4_addr;${list([...owned])}; }
  set isolated { type ifname;${list(isolated)}; }
  set isolated_bridged { type ifname;${list(lone)}; }
  set cards { type ifname;${list(all)}; }
  set new4 { type ifname; size 4096; flags dynamic; }
  set claim { type ifname . ipv4_addr; size 4096; flags dynamic,timeout; timeout ${CLAIM_TIMEOUT}; }

  set seen { type ether_addr . ipv4_addr; size 4096; flags dynamic,timeout; timeout ${SEEN_TIMEOUT}; }
  set given { typeof @th,288,48 . @th,192,32; size 4096; flags dynamic,timeout; timeout ${SEEN_TIMEOUT}; }
${ipv6Sets(
  domains,
  plugged.map(({ nic }) => ({ tap: tapName(nic.id), nic })),
  gatewayMacs,
)}
  set in_segment { type ifname;${list(inSegments)}; }
  set host_addresses { type ipv4_addr;${list(segments.hostAddresses)}; }

  chain check_ip4 {
    ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
    jump no_server
    iifname . ip saddr @address accept
    ip saddr @owned ${drop('ip_spoof')}
    iifname @isolated ${drop('isolated')}
    iifname . ip saddr @claim accept
    ${drop('ip_spoof')}
  }
  chain no_server {
    @nh,0,8 & 0x0f != 5 jump ip_options
    meta protocol ip icmp type { redirect, router-advertisement } ${drop('rogue_ra')}
    udp sport 67 udp dport 68 ${drop('rogue_dhcp')}
  }
  chain ip_options {
    meta protocol ip ip option lsrr exists ${drop('source_route')}
    meta protocol ip ip option ssrr exists ${drop('source_route')}
  }
  chain bridged {
    iifname . ether saddr != @mac ${drop('mac_spoof')}
    meta protocol arp iifname . arp saddr ether != @mac ${drop('arp_spoof')}
    meta protocol arp arp saddr ip @host_addresses ${drop('arp_spoof')}
    ip saddr @host_addresses ${drop('ip_spoof')}
    meta protocol arp arp saddr ip 0.0.0.0 return
    meta protocol arp ether saddr . arp saddr ip != @seen update @new4 { iifname limit rate over ${NOTED}/hour burst ${NOTED} packets } return comment "no more is noted, and all is let through"
    meta protocol arp update @seen { ether saddr . arp saddr ip timeout ${SEEN_TIMEOUT} }
    meta protocol ip jump no_server
  }
${bridges
  .map(
    (d) => `  chain bridged_${d} {
    jump bridged
    meta protocol ip6 goto ip6_${d}
    accept
  }`,
  )
  .join('\n')}
${domains.map((d) => ipv6Chains(d, drop)).join('\n')}
${onNetwork.join('\n')}
  map nic { type ifname : verdict;${list(taps)}; }
  chain guard {
    type filter hook prerouting priority -300; policy accept;
    ip protocol tcp @nh,0,8 0x45 iifname . ether saddr . ip saddr @known accept comment "nearly all: one look"
    iifname vmap @nic
  }
  chain forward {
    type filter hook forward priority -200; policy accept;
    iifname @isolated ${drop('isolated')}
    oifname @isolated ${drop('isolated')}
    iifname @isolated_bridged oifname @cards ${drop('isolated')}
    oifname @isolated_bridged iifname @cards ${drop('isolated')}
${bridged.length > 0 ? '    udp sport 67 udp dport 68 @th,192,32 != 0 update @given { @th,288,48 . @th,192,32 }' : ''}
  }
  chain input {
    type filter hook input priority -200; policy accept;
    iifname ${q(`${PLUG_PREFIX}*`)} drop comment "segments are no network of the host"
    iifname @in_segment drop
    iifname @isolated ether type ip6 ${drop('isolated')}
    iifname @isolated_bridged jump parted
  }
  chain output {
    type filter hook output priority -200; policy accept;
    oifname @isolated ether type ip6 counter drop
    oifname @isolated_bridged jump parted
  }
  chain parted {
    ether type arp accept
    ip protocol udp udp dport { 67, 68 } accept comment "the host may be that network's DHCP server"
    counter drop
  }
}`;
}
