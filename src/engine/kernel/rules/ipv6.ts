/**
 * Who may speak as which IPv6 address: the part of the guard's rules that nft needs for it (B91). Pure, from cards to
 * text.
 *
 * Theory of operation: an address belongs to the card that spoke as it first, for as long as that card goes on doing so
 * (first come, first served, as in RFC 6620). A card speaks as an address by sending from it, or by advertising it; a
 * question whether an address is free (duplicate address detection) takes nothing, and is let through to the one that
 * has it. Addresses that are made of a MAC address of the network (EUI-64) belong to that MAC's card from the
 * beginning. `held6` has what is held, `own6` the same with the card, so that "held, but not by this one" can be asked.
 * Each network, and each VLAN of each bridge, is a domain with sets of its own. A card takes 32 addresses at once, and
 * 32 more in an hour, so it cannot fill the sets for others. Sets outlive the rules (kept-elements.ts).
 *
 * What stands behind extension headers is looked for; a message of neighbour discovery in fragments (RFC 6980), or a
 * first fragment that does not show what it carries (RFC 7112), is dropped. Options are walked by
 * bpf/mac-translate.bpf.c, which marks a message that names another's MAC address, or whose options do not fit it
 * exactly, so that every receiver throws it away (RFC 4861, 4.6).
 *
 * `meta protocol ip6` stands where nft would look at the type behind the addresses, which of a frame in a VLAN is the
 * tag's.
 *
 * Limits: nft 1.0.6 does not know the target of an advertisement by name, nor options, hence the raw offsets; where the
 * kernel takes no eBPF, only a first option without length is found; an authentication header ends the search, as for
 * the kernel of the receiver, who must have a key for it.
 */
import type { RuledNic } from './rule-input.ts';

/** Seconds for which an address is held after its card has last spoken as it. */
export const HOLD_SECONDS = 3600;
/** Addresses that a card may take at once, and in an hour. */
const ADDRESSES = 32;
const SET_SIZE = 65_535;
/** MARK_FORGED and MARK_MALFORMED of bpf/mac-translate.bpf.c. */
const FORGED_MARK = '0x616e6b61';
const MALFORMED_MARK = '0x616e6b62';
/**
 * Where in a packet: the sender's address, and the half of it that names the interface; the same of an advertisement's
 * target.
 */
const SOURCE = '@nh,64,128';
const SOURCE_INTERFACE = '@nh,128,64';
const TARGET = '@th,64,128';
const TARGET_INTERFACE = '@th,128,64';

type Drop = (reason: 'ip_spoof' | 'nd_spoof' | 'rogue_ra' | 'rogue_dhcp' | 'malformed' | 'address_limit') => string;

/** The half of an address that an interface makes of its MAC (RFC 4291, appendix A), as nft writes it. */
export function interfaceIdOf(mac: number): string {
  const high = Math.floor(mac / 2 ** 24) ^ 0x020000;
  return `0x${high.toString(16).padStart(6, '0')}fffe${(mac % 2 ** 24).toString(16).padStart(6, '0')}`;
}

const elements = (items: readonly string[]): string => (items.length > 0 ? ` elements = { ${items.join(', ')} }` : '');

/** Sets for all domains. `gateways`: MAC addresses of our bridges, whose addresses are no guest's. */
export function ipv6Sets(domains: readonly string[], plugged: readonly { tap: string; nic: RuledNic['nic'] }[], gateways: readonly number[]): string {
  const born = plugged.map(({ tap, nic }) => `"${tap}" . ${interfaceIdOf(nic.outsideMac)}`);
  const anyBorn = [...new Set([...plugged.map(({ nic }) => nic.outsideMac), ...gateways])].map(interfaceIdOf);
  return `  set born6 { typeof iifname . ${SOURCE_INTERFACE};${elements(born)}; }
  set born6_any { typeof ${SOURCE_INTERFACE};${elements(anyBorn)}; }
  set new6 { type ifname; size ${SET_SIZE}; flags dynamic; }
${domains
  .map(
    (d) => `  set own6_${d} { typeof iifname . ${SOURCE}; size ${SET_SIZE}; flags dynamic,timeout; timeout ${HOLD_SECONDS}s; }
  set held6_${d} { typeof ${SOURCE}; size ${SET_SIZE}; flags dynamic,timeout; timeout ${HOLD_SECONDS}s; }`,
  )
  .join('\n')}`;
}

/** Chains of one domain; `ip6_DOMAIN` is the one to go to with a packet of IPv6, which ends with it. */
export function ipv6Chains(d: string, drop: Drop): string {
  const hold = (at: string): string => `update @own6_${d} { iifname . ${at} timeout ${HOLD_SECONDS}s } update @held6_${d} { ${at} timeout ${HOLD_SECONDS}s }`;
  const tooMany = `update @new6 { iifname limit rate over ${ADDRESSES}/hour burst ${ADDRESSES} packets } ${drop('address_limit')}`;
  return `  chain take6_${d} {
    ${hold(SOURCE)} accept
  }
  chain source6_${d} {
    iifname . ${SOURCE} @own6_${d} goto take6_${d}
    ip6 saddr { ::/96, ::ffff:0:0/96, ff00::/8 } ${drop('ip_spoof')}
    ${SOURCE} @held6_${d} ${drop('ip_spoof')}
    iifname . ${SOURCE_INTERFACE} @born6 goto take6_${d}
    ${SOURCE_INTERFACE} @born6_any ${drop('ip_spoof')}
    ${tooMany}
    goto take6_${d}
  }
  chain target6_${d} {
    iifname . ${TARGET} @own6_${d} ${hold(TARGET)} return
    @th,64,8 0xff ${drop('nd_spoof')}
    ${TARGET} @held6_${d} ${drop('nd_spoof')}
    iifname . ${TARGET_INTERFACE} @born6 ${hold(TARGET)} return
    ${TARGET_INTERFACE} @born6_any ${drop('nd_spoof')}
    ${tooMany}
    ${hold(TARGET)}
  }
  chain nd6_${d} {
    meta mark ${FORGED_MARK} ${drop('nd_spoof')}
    meta protocol ip6 exthdr frag exists ${drop('nd_spoof')}
    meta mark ${MALFORMED_MARK} ${drop('malformed')}
    meta protocol ip6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } @nh,32,16 >= 32 @th,200,8 0 ${drop('malformed')}
    meta protocol ip6 icmpv6 type nd-router-solicit @nh,32,16 >= 16 @th,72,8 0 ${drop('malformed')}
    ip6 saddr :: icmpv6 type { nd-router-solicit, nd-neighbor-solicit } accept comment "is it free?"
    iifname . ${SOURCE} != @own6_${d} ${SOURCE} @held6_${d} ${drop('nd_spoof')}
    iifname . ${SOURCE_INTERFACE} != @born6 ${SOURCE_INTERFACE} @born6_any ${drop('nd_spoof')}
    meta protocol ip6 icmpv6 type nd-neighbor-advert jump target6_${d}
    goto source6_${d}
  }
  chain icmp6_${d} {
    meta protocol ip6 icmpv6 type { nd-router-advert, nd-redirect } ${drop('rogue_ra')}
    meta protocol ip6 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } goto nd6_${d}
    ip6 saddr :: icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept
    meta protocol ip6 icmpv6 type != nd-router-advert goto source6_${d}
    meta protocol ip6 frag frag-off != 0 goto source6_${d} comment "the first fragment decides"
    ${drop('malformed')}
  }
  chain udp6_${d} {
    udp dport != 546 goto source6_${d}
    udp sport != 547 goto source6_${d}
    udp dport 546 ${drop('rogue_dhcp')}
    meta protocol ip6 frag frag-off != 0 goto source6_${d}
    ${drop('malformed')}
  }
  chain ip6_${d} {
    meta l4proto ipv6-icmp goto icmp6_${d}
    meta l4proto udp goto udp6_${d}
    meta l4proto != udp goto source6_${d}
    ${drop('malformed')}
  }`;
}
