/** Gathers the state of this host from which `explain` answers. */
import { networkInterfaces } from 'node:os';
import { listAddresses, listLinks } from '../../host/links.ts';
import { connectionsFrom, type ListedConnection } from '../../host/netlink/connection-list.ts';
import { Routing } from '../../host/routing.ts';
import { readSysctl } from '../../host/sysctl.ts';
import type { KernelHostState } from '../../net/explain/kernel-engine.ts';
import { MAX_CONNECTIONS } from '../../net/policy/connections.ts';
import { DHCP_SERVER_PORT, DNS_SERVICE_PORT } from '../../net/policy/services.ts';
import { parseIpv4, parseMac } from '../../wire/address.ts';
import { parseIpv6 } from '../../wire/address6.ts';
import { IpProtocol } from '../../wire/ipv4.ts';
import type { DesiredState, ObservedNic } from '../engine.ts';
import { explainedAddresses } from '../observed-addresses.ts';
import { waitingPort, waitText } from './bridging/spanning-tree.ts';
import type { Attachments } from './bridging/uplinks.ts';
import { BRIDGES, bridgeMac, DHCP_PORTS, DNS_PORT } from './names.ts';
import { findFirewalls, listRules, listXtables } from './rules/firewalls.ts';
import { filterName, foreignDrop, foreignFilters, letsPass } from './rules/foreign-filters.ts';
import { readRefused } from './rules/kept-elements.ts';

/** `nics`: as observed now. */
export async function gatherFacts(desired: DesiredState, attachments: Attachments, nics: readonly ObservedNic[]): Promise<KernelHostState> {
  const links = await listLinks();
  const rules = await listRules();
  const filters = foreignFilters(rules, await listXtables(rules.nft));
  const routing = await Routing.read();
  const forwardingOff: string[] = [];
  for (const dev of routing.interfaces) if ((await readSysctl(`net/ipv4/conf/${dev}/forwarding`)) === '0') forwardingOff.push(dev);
  return {
    networks: desired.networks.map((n) => ({ ...n, interface: BRIDGES[n.name], gatewayMac: parseMac(bridgeMac(n.name)) as number })),
    cards: desired.nics.map((nic) => {
      const attachment = nic.type === 'bridge' ? attachments.get(nic.id) : undefined;
      if (!attachment) return { ...nic, ...explainedAddresses(nics, nic.id) };
      const isHostBridge = attachment.ownInterfaces.length === 0;
      const waiting = waitingPort(nic, links);
      const name = isHostBridge ? attachment.bridge : attachment.uplink;
      return {
        ...nic,
        ...explainedAddresses(nics, nic.id),
        segment: {
          name,
          hostInterfaces: [attachment.uplink, attachment.bridge],
          hostUnreachable: attachment.limit !== '',
          isHostBridge,
          ...(waiting ? { closed: waitText(waiting) } : {}),
        },
      };
    }),
    addresses: await hostAddresses(),
    addresses6: hostAddresses6(),
    redirectPorts: { dhcp: DHCP_PORTS, dns: DNS_PORT },
    route: (query) => routing.lookUp(query),
    metadata: desired.metadata === true,
    atConnectionLimit: await cardsAtConnectionLimit(desired, nics),
    forwardingOff,
    firewalls: findFirewalls(rules).map((f) => ({ name: `${f.owner}: chain ${f.family} ${f.table} ${f.chain}`, hook: f.hook, allowed: letsPass(f, filters) })),
    foreignDrop: (path) => {
      const drop = foreignDrop(filters, path);
      return drop && { firewall: filterName(drop.filter), rule: drop.rule };
    },
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

/** Cards at their limit of connections. Only those that were ever refused one are counted. */
async function cardsAtConnectionLimit({ nics }: DesiredState, observed: readonly ObservedNic[]): Promise<string[]> {
  const macs = new Set(readRefused().map((e) => parseMac(e.parts[0] ?? '')));
  if (macs.size === 0) return [];
  const own = new Set((await hostAddresses()).map((a) => a.address));
  const open = (id: string): number => explainedAddresses(observed, id).addresses.reduce((n, ip) => n + openConnections(ip, own), 0);
  return nics.filter((n) => macs.has(n.outsideMac) && open(n.id) >= MAX_CONNECTIONS).map((n) => n.id);
}

/** Connections of an address that count: those that have not ended, and no requests to the gateway's services. */
function openConnections(ip: number, hostAddresses: ReadonlySet<number>): number {
  const isRequest = ({ protocol, destination, destinationPort: port }: ListedConnection): boolean =>
    (port === DNS_SERVICE_PORT || (port === DHCP_SERVER_PORT && protocol === IpProtocol.udp)) && hostAddresses.has(destination);
  return connectionsFrom(ip).filter((c) => c.state !== 'time_wait' && c.state !== 'close' && !isRequest(c)).length;
}
