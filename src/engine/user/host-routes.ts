/**
 * Routes of this host, on any system: without netlink, the subnets of its interfaces, and a default route by the first
 * of them.
 */
import { networkInterfaces } from 'node:os';
import { listRoutes, type Route } from '../../host/links.ts';
import { parseIpv4 } from '../../wire/address.ts';

export async function hostRoutes(): Promise<Route[]> {
  return listRoutes().catch(() => {
    const own = Object.entries(networkInterfaces()).flatMap(([dev, addresses]) =>
      (addresses ?? []).flatMap((a): Route[] => {
        const base = a.family === 'IPv4' && !a.internal && a.cidr ? parseIpv4(a.address) : null;
        if (base === null) return [];
        const prefix = Number(a.cidr?.split('/')[1]);
        return [{ base: base - (base % 2 ** (32 - prefix)), prefix, dev, isDefault: false }];
      }),
    );
    return own[0] ? [...own, { base: 0, prefix: 0, dev: own[0].dev, isDefault: true }] : [];
  });
}
