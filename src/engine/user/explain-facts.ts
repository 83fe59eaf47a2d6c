/** Facts about this host for `explain`, gathered at each request. */
import { networkInterfaces } from 'node:os';
import type { UserHostState } from '../../net/explain/user-engine.ts';
import { isLoopback } from '../../net/policy/addresses.ts';
import { gatewayOf, parseIpv4 } from '../../wire/address.ts';
import type { DesiredState } from '../engine.ts';
import { hostRoutes } from './host-routes.ts';
import type { NetworkFacts } from './process/config.ts';
import { GATEWAY_MAC } from './process/gateway-mac.ts';

/** `ipOf`: the current address of a guest, by the id of its card. `process`: facts of the card's network process. */
export async function gatherFacts(desired: DesiredState, ipOf: (id: string) => number | null, process: NetworkFacts): Promise<UserHostState> {
  const own = Object.entries(networkInterfaces()).flatMap(([dev, all]) =>
    (all ?? []).flatMap((a) => {
      const address = a.family === 'IPv4' ? parseIpv4(a.address) : null;
      return address === null || isLoopback(address) ? [] : [{ dev, address, prefix: Number(a.cidr?.split('/')[1] ?? 32) }];
    }),
  );
  return {
    networks: desired.networks.map((n) => ({ ...n, gatewayMac: GATEWAY_MAC[n.name] })),
    cards: desired.nics.map((nic) => ({ ...nic, ip: ipOf(nic.id) })),
    addresses: [...own, ...desired.networks.map((n) => ({ dev: n.name, address: gatewayOf(n.subnet), prefix: n.subnet.prefix }))],
    routes: await hostRoutes(),
    ...process,
  };
}
