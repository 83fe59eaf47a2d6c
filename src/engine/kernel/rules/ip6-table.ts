/** Table `ip6 anka`: IPv6 does not leave the network it is sent on. */
import { METADATA6 } from '../../../net/policy/metadata.ts';
import { DNS_SERVICE_PORT } from '../../../net/policy/services.ts';
import type { DesiredNetwork } from '../../engine.ts';
import { BRIDGES, bridgeMac } from '../names.ts';
import { drop, dropSet } from './drop-reasons.ts';
import { betweenGuests } from './ip-table.ts';
import { anyOf, baseChain, chain, quoted, table } from './nft-text.ts';

const PROHIBITED = drop('prohibited', 'ether saddr');
const METADATA = drop('metadata', 'ether saddr');

export function ip6Table(networks: readonly DesiredNetwork[], metadata: boolean): string {
  if (networks.length === 0) return 'table ip6 anka {\n}';
  return table('ip6', [dropSet('prohibited', 'ether saddr'), dropSet('metadata', 'ether saddr'), forward(networks), prerouting(networks, metadata), input()]);
}

/** Nothing is routed from or to a network. */
function forward(networks: readonly DesiredNetwork[]): string {
  const bridges = anyOf(networks.map((n) => quoted(BRIDGES[n.name])));
  return chain('forward', [
    baseChain('filter', 'forward', 'filter - 5'),
    ...betweenGuests({ all: networks }),
    `iifname ${bridges} ${PROHIBITED} comment "IPv6 stays on its network"`,
    `oifname ${bridges} counter drop`,
  ]);
}

/**
 * A guest that takes the gateway for an IPv6 router is counted, not only ignored. The host itself may hold an address
 * of its cloud's metadata service.
 */
function prerouting(networks: readonly DesiredNetwork[], metadata: boolean): string {
  return chain('prerouting', [
    baseChain('filter', 'prerouting', 'raw'),
    ...(metadata ? [] : networks.map((n) => `iifname ${quoted(BRIDGES[n.name])} ip6 daddr ${anyOf(METADATA6)} ${METADATA}`)),
    ...networks.map(
      (n) =>
        `iifname ${quoted(BRIDGES[n.name])} ether daddr ${bridgeMac(n.name)} ip6 daddr != { fe80::/10, ff00::/8 } fib daddr type != local ${PROHIBITED} comment "the host is no IPv6 router"`,
    ),
  ]);
}

/** The host's own resolver would answer names from outside. */
function input(): string {
  return chain('input', [
    baseChain('filter', 'input', 'filter - 5'),
    `iifname ${quoted(BRIDGES.host)} meta l4proto { tcp, udp } th dport ${DNS_SERVICE_PORT} ${PROHIBITED} comment "host network: no outside names"`,
  ]);
}
