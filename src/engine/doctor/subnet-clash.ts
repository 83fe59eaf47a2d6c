/** Subnets of the shared and host networks against the host's other routes (B24). */
import type { Route } from '../../host/links.ts';
import { formatSubnet, type SubnetLike, subnetsOverlap } from '../../wire/address.ts';
import type { DesiredNetwork, EngineProblem } from '../engine.ts';

/** Networks that clash with one of `routes`, the host's routes without those of anka; each with a free subnet. */
export function subnetProblems(networks: readonly DesiredNetwork[], routes: readonly Route[]): EngineProblem[] {
  const foreign = routes.filter((r) => !r.isDefault);
  return networks.flatMap((n) => {
    const clash = foreign.find((r) => subnetsOverlap(r, n.subnet));
    if (!clash) return [];
    const free = proposeSubnet([...foreign, ...networks.filter((o) => o !== n).map((o) => o.subnet)]);
    return [
      {
        object: `network:${n.name}`,
        message: `subnet ${formatSubnet(n.subnet)} of the ${n.name} network clashes with this host's route to ${formatSubnet(clash)} through ${clash.dev}; ${free ? `'anka config ${n.name}_subnet ${free}' sets a free one` : 'choose another'}`,
      },
    ];
  });
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
