/**
 * What no guest may send to a link at all: the part of the guard that stands before the bridge (B91). Pure, from cards
 * to text.
 *
 * Theory of operation: Linux's bridge drops frames from a group or from no address, and pause frames, and hands LLDP's
 * group, with whatever the frame carries, to the host's stack as if it had come by the tap itself: all before any rule
 * of table bridge sees it. So these frames are dropped and counted where the host takes them in from the tap (table
 * netdev), after the translation of their addresses. A tap that is in no network passes nothing: the host's stack,
 * which would be next, is no network of a guest's. Each tap has a chain, which goes with it.
 *
 * Limits: Linux 4.16 (netdev tables with sets), built with CONFIG_NETFILTER_INGRESS.
 */

/** A card's interface on the host, which must be there. */
export interface CardTap {
  tap: string;
  /** It is in a bridge. */
  plugged: boolean;
}

/** Reasons for which frames are dropped here, each with a set. */
const REASONS = ['mac_spoof', 'ethertype'] as const;
/**
 * By their place in the frame (bit, length), as every frame of a guest passes here: for `ether saddr` nft first asks
 * each time whether the interface is an Ethernet's, and a tap is. The source's group bit; all of the source; the first
 * four bytes of the destination, and twelve bits after them: 01-80-C2-00-00-00 to 0F, which no bridge may forward (IEEE
 * 802.1Q, 8.6.3).
 */
const GROUP_SOURCE = '@ll,55,1 1';
const NO_SOURCE = '@ll,48,48 0';
const LINK_GROUPS = '@ll,0,32 0x0180c200 @ll,32,12 0';

export function ingressTable(taps: readonly CardTap[], drop: (reason: (typeof REASONS)[number]) => string): string {
  return `table netdev anka {
${REASONS.map((r) => `  set drop_${r} { type ifname; size 65535; flags dynamic; }`).join('\n')}
  chain frame {
    ${GROUP_SOURCE} ${drop('mac_spoof')}
    ${NO_SOURCE} ${drop('mac_spoof')}
    ${LINK_GROUPS} ${drop('ethertype')}
  }
${taps
  .map(
    ({ tap, plugged }) =>
      `  chain from_${tap} { type filter hook ingress device "${tap}" priority 0; ${plugged ? 'policy accept; jump frame;' : 'policy drop;'} }`,
  )
  .join('\n')}
}`;
}
