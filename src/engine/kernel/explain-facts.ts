/** What `explain` has to know of this host, gathered when it is asked. */
import { listAddresses, listRoutes } from '../../host/links.ts';
import { readSysctl } from '../../host/sysctl.ts';
import type { KernelSurroundings } from '../../net/explain/kernel.ts';
import { parseIpv4, parseMac } from '../../wire/address.ts';
import type { DesiredState } from '../engine.ts';
import type { Plugs } from './bridging/uplinks.ts';
import { BRIDGES, bridgeMac } from './names.ts';
import { findFirewalls } from './rules/firewalls.ts';

/** `ipOf` gives a guest's address now, by the id of its card. */
export async function gatherFacts(desired: DesiredState, plugs: Plugs, ipOf: (id: string) => number | null): Promise<KernelSurroundings> {
  const addresses = [...(await listAddresses())].flatMap(([dev, texts]) =>
    texts.flatMap((text) => {
      const [address, prefix] = text.split('/') as [string, string];
      const value = parseIpv4(address);
      return value === null ? [] : [{ dev, address: value, prefix: Number(prefix) }];
    }),
  );
  const routes = await listRoutes();
  const forwardingOff: string[] = [];
  for (const dev of new Set([...routes.map((r) => r.dev), ...Object.values(BRIDGES)]))
    if ((await readSysctl(`net/ipv4/conf/${dev}/forwarding`))?.trim() === '0') forwardingOff.push(dev);
  return {
    networks: desired.networks.map((n) => ({ ...n, interface: BRIDGES[n.name], gatewayMac: parseMac(bridgeMac(n.name)) as number })),
    cards: desired.nics.map((nic) => {
      const plug = nic.type === 'bridge' ? plugs.get(nic.id) : undefined;
      if (!plug) return { ...nic, ip: ipOf(nic.id) };
      const name = plug.own.length === 0 ? plug.bridge : plug.uplink;
      return { ...nic, ip: ipOf(nic.id), segment: { name, hostInterfaces: [plug.uplink, plug.bridge], hostApart: plug.limit !== '' } };
    }),
    addresses,
    routes,
    forwardingOff,
    firewalls: (await findFirewalls()).map((f) => ({ name: `${f.owner}: chain ${f.family} ${f.table} ${f.chain}`, hook: f.hook, allowed: f.allowed })),
  };
}
