/** Gathers the state of this host from which `explain` answers. */
import { networkInterfaces } from 'node:os';
import { listAddresses, listRoutes } from '../../host/links.ts';
import { readSysctl } from '../../host/sysctl.ts';
import type { KernelHostState } from '../../net/explain/kernel-engine.ts';
import { parseIpv4, parseMac } from '../../wire/address.ts';
import { parseIpv6 } from '../../wire/address6.ts';
import type { DesiredState } from '../engine.ts';
import type { Attachments } from './bridging/uplinks.ts';
import { BRIDGES, bridgeMac, DHCP_PORTS, DNS_PORT } from './names.ts';
import { findFirewalls } from './rules/firewalls.ts';

/** `ipOf`: the current address of a guest, by the id of its NIC. */
export async function gatherFacts(desired: DesiredState, attachments: Attachments, ipOf: (id: string) => number | null): Promise<KernelHostState> {
  const routes = await listRoutes();
  const forwardingOff: string[] = [];
  for (const dev of new Set([...routes.map((r) => r.dev), ...Object.values(BRIDGES)]))
    if ((await readSysctl(`net/ipv4/conf/${dev}/forwarding`))?.trim() === '0') forwardingOff.push(dev);
  return {
    networks: desired.networks.map((n) => ({ ...n, interface: BRIDGES[n.name], gatewayMac: parseMac(bridgeMac(n.name)) as number })),
    cards: desired.nics.map((nic) => {
      const attachment = nic.type === 'bridge' ? attachments.get(nic.id) : undefined;
      if (!attachment) return { ...nic, ip: ipOf(nic.id) };
      const isHostBridge = attachment.ownInterfaces.length === 0;
      const name = isHostBridge ? attachment.bridge : attachment.uplink;
      return {
        ...nic,
        ip: ipOf(nic.id),
        segment: { name, hostInterfaces: [attachment.uplink, attachment.bridge], hostUnreachable: attachment.limit !== '', isHostBridge },
      };
    }),
    addresses: await hostAddresses(),
    addresses6: hostAddresses6(),
    redirectPorts: { dhcp: Object.values(DHCP_PORTS), dns: DNS_PORT },
    routes,
    forwardingOff,
    firewalls: (await findFirewalls()).map((f) => ({ name: `${f.owner}: chain ${f.family} ${f.table} ${f.chain}`, hook: f.hook, allowed: f.allowed })),
  };
}

async function hostAddresses(): Promise<KernelHostState['addresses']> {
  return [...(await listAddresses())].flatMap(([dev, texts]) =>
    texts.flatMap((text) => {
      const [address, prefix] = text.split('/') as [string, string];
      const value = parseIpv4(address);
      return value === null ? [] : [{ dev, address: value, prefix: Number(prefix) }];
    }),
  );
}

/** Global IPv6 addresses. Link-local ones are ambiguous without the interface. */
function hostAddresses6(): string[] {
  return Object.values(networkInterfaces()).flatMap((all) =>
    (all ?? []).flatMap((a) => {
      const address = a.family === 'IPv6' && a.scopeid === 0 && !a.internal ? parseIpv6(a.address) : null;
      return address === null ? [] : [address];
    }),
  );
}
