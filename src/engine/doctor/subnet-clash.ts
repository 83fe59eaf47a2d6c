/** Subnets of the shared and host networks against the host's other routes (B24). */
import type { Route } from '../../host/links.ts';
import { formatSubnet, type SubnetLike, subnetsOverlap } from '../../wire/address.ts';
import type { DesiredNetwork, DoctorFinding, EngineProblem } from '../engine.ts';

interface Clash {
  network: DesiredNetwork;
  route: Route;
  /** A free subnet. */
  free: string | undefined;
}

/** `routes`: the host's routes without those of anka. */
function subnetClashes(networks: readonly DesiredNetwork[], routes: readonly Route[]): Clash[] {
  const foreign = routes.filter((r) => !r.isDefault);
  return networks.flatMap((network) => {
    const clashing = foreign.filter((r) => subnetsOverlap(r, network.subnet));
    if (clashing.length === 0) return [];
    const free = proposeSubnet([...foreign, ...networks.filter((o) => o !== network).map((o) => o.subnet)]);
    return clashing.map((route) => ({ network, route, free }));
  });
}

const subnetOf = (network: DesiredNetwork): string => `subnet ${formatSubnet(network.subnet)} of the ${network.name} network`;

/** Networks that clash with one of `routes`, the host's routes without those of anka; each with a free subnet. */
export function subnetProblems(networks: readonly DesiredNetwork[], routes: readonly Route[]): EngineProblem[] {
  const clashes = subnetClashes(networks, routes);
  return networks.flatMap((network) => {
    const clash = clashes.find((c) => c.network === network);
    if (!clash) return [];
    const { route, free } = clash;
    const remedy = free ? `'anka config ${network.name}_subnet ${free}' sets a free one` : 'choose another';
    const message = `${subnetOf(network)} clashes with this host's route to ${formatSubnet(route)} through ${route.dev}; ${remedy}`;
    return [{ object: `network:${network.name}`, message }];
  });
}

/** The same for `anka doctor`: every route that clashes. */
export function subnetFindings(networks: readonly DesiredNetwork[], routes: readonly Route[]): DoctorFinding[] {
  const clashes = subnetClashes(networks, routes);
  if (clashes.length === 0) return [{ id: 'subnet', level: 'ok', message: "no route of this host overlaps anka's subnets", remedy: '' }];
  return clashes.map(({ network, route, free }) => ({
    id: 'subnet.clash',
    level: 'error',
    message: `${subnetOf(network)} clashes with the route to ${formatSubnet(route)} through ${route.dev}`,
    remedy: `run 'anka config ${network.name}_subnet ${free ?? 'SUBNET'}'${free ? '' : ' with an unused subnet'}`,
  }));
}

/** A private /24 that overlaps none of `taken`; undefined if there is none. */
function proposeSubnet(taken: readonly SubnetLike[]): string | undefined {
  for (let third = 64; third < 256; third += 4) {
    const candidate = { base: (192 * 2 ** 24 + 168 * 65_536 + third * 256) >>> 0, prefix: 24 };
    if (!taken.some((t) => subnetsOverlap(t, candidate))) return formatSubnet(candidate);
  }
  for (let second = 16; second < 256; second++) {
    const candidate = { base: (10 * 2 ** 24 + second * 65_536 + 64 * 256) >>> 0, prefix: 24 };
    if (!taken.some((t) => subnetsOverlap(t, candidate))) return formatSubnet(candidate);
  }
  return undefined;
}
