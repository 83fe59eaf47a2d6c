/** Facts about this host for `explain`, gathered at each request. */
import { networkInterfaces } from 'node:os';
import { Routing } from '../../host/routing.ts';
import { byLongestPrefix, type LookUpRoute } from '../../net/explain/routing.ts';
import type { UserHostState } from '../../net/explain/user-engine.ts';
import { isLoopback } from '../../net/policy/addresses.ts';
import { gatewayOf, parseIpv4 } from '../../wire/address.ts';
import type { DesiredState, ObservedNic } from '../engine.ts';
import { explainedAddresses } from '../observed-addresses.ts';
import { hostRoutes } from './host-routes.ts';
import type { NetworkFacts } from './process/config.ts';
import { GATEWAY_MAC } from './process/gateway-mac.ts';

/** `nics`: as observed now. `process`: facts of the card's network process, and its user id. */
export async function gatherFacts(
  desired: DesiredState,
  nics: readonly ObservedNic[],
  { uid, ...process }: NetworkFacts & { uid: number },
): Promise<UserHostState> {
  const own = Object.entries(networkInterfaces()).flatMap(([dev, all]) =>
    (all ?? []).flatMap((a) => {
      const address = a.family === 'IPv4' ? parseIpv4(a.address) : null;
      return address === null || isLoopback(address) ? [] : [{ dev, address, prefix: Number(a.cidr?.split('/')[1] ?? 32) }];
    }),
  );
  return {
    networks: desired.networks.map((n) => ({ ...n, gatewayMac: GATEWAY_MAC[n.name] })),
    cards: desired.nics.map((nic) => ({ ...nic, ...explainedAddresses(nics, nic.id) })),
    addresses: [...own, ...desired.networks.map((n) => ({ dev: n.name, address: gatewayOf(n.subnet), prefix: n.subnet.prefix }))],
    route: await routing(uid),
    metadata: desired.metadata === true,
    ...process,
  };
}

/** Routing of packets that the network process sends. */
async function routing(uid: number): Promise<LookUpRoute> {
  const known = await Routing.read().catch(() => null);
  return known ? (query) => known.lookUp({ ...query, uid }) : byLongestPrefix(await hostRoutes());
}
