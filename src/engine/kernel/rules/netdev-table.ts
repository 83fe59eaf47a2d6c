/**
 * Table `netdev anka`: what no guest may send at all. It is the part of the guard before the bridge (B91).
 *
 * Theory of operation: Linux's bridge drops pause frames and frames whose source is a group or zero before table bridge
 * sees them. Frames to LLDP's group go to the host's stack, whatever they carry, as if the tap itself had received
 * them. So these frames are dropped and counted at the tap's ingress hook, after tc has translated MAC addresses. A tap
 * in no bridge passes nothing, as the host's stack would be next. Each tap has a chain of its own, which is removed
 * with it.
 *
 * Limits: Linux 4.16 (netdev tables with sets), built with CONFIG_NETFILTER_INGRESS.
 */
import { drop, dropSet } from './drop-reasons.ts';
import { chain, table } from './nft-text.ts';

/** A NIC's interface on the host. */
export interface NicTap {
  tap: string;
  /** It is attached to a bridge. */
  attached: boolean;
}

/**
 * Matches by bit offset and length in the frame. With `ether saddr`, nft would check for every frame first whether the
 * interface is Ethernet; a tap is. Group bit of the source; the whole source; and the destinations 01-80-C2-00-00-00 to
 * -0F, which no bridge may forward (IEEE 802.1Q, 8.6.3), as four bytes and twelve bits.
 */
const GROUP_SOURCE = '@ll,55,1 1';
const NO_SOURCE = '@ll,48,48 0';
const LINK_LOCAL_GROUPS = '@ll,0,32 0x0180c200 @ll,32,12 0';

export function netdevTable(taps: readonly NicTap[]): string {
  return table('netdev', [dropSet('mac_spoof', 'iifname'), dropSet('ethertype', 'iifname'), frame(), taps.map(fromTap).join('\n')]);
}

function frame(): string {
  return chain('frame', [
    `${GROUP_SOURCE} ${drop('mac_spoof', 'iifname')}`,
    `${NO_SOURCE} ${drop('mac_spoof', 'iifname')}`,
    `${LINK_LOCAL_GROUPS} ${drop('ethertype', 'iifname')}`,
  ]);
}

function fromTap({ tap, attached }: NicTap): string {
  const verdict = attached ? 'policy accept; jump frame;' : 'policy drop;';
  return `  chain from_${tap} { type filter hook ingress device "${tap}" priority 0; ${verdict} }`;
}
