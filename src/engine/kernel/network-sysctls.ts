/** Kernel settings that the networks with a gateway need. */
import { listRoutes } from '../../host/links.ts';
import type { DesiredState } from '../engine.ts';
import { BRIDGES } from './names.ts';
import type { SysctlRecord } from './sysctl-record.ts';

export async function applySysctls(desired: DesiredState, record: SysctlRecord): Promise<void> {
  for (const { name } of desired.networks) {
    const dev = BRIDGES[name];
    await record.set(`net/ipv4/conf/${dev}/forwarding`, '1');
    await record.set(`net/ipv4/conf/${dev}/send_redirects`, '0');
    // a gratuitous ARP creates an entry, from which the guest's own address is learned (B50)
    await record.set(`net/ipv4/conf/${dev}/arp_accept`, '1');
    await record.set(`net/ipv4/conf/${dev}/accept_source_route`, '0');
    await record.set(`net/ipv6/conf/${dev}/accept_ra`, '0');
  }
  if (desired.networks.length === 0) return;
  const bridges = new Set<string>(Object.values(BRIDGES));
  // a rule may send guests' packets by a table of a VPN
  for (const { dev } of await listRoutes('all')) if (dev !== 'lo' && !bridges.has(dev)) await record.set(`net/ipv4/conf/${dev}/forwarding`, '1');
}
