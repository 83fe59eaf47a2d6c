/** Creates our interfaces so that the host's own stack ignores them. */
import { changeLinks, type LinkChange } from '../../../host/netlink/link-requests.ts';
import { setSysctl } from '../../../host/sysctl.ts';
import { GROUP } from '../names.ts';

/**
 * Makes `changes`, which create interfaces, and then switches ARP and IPv6 off on those in `created`. The label is set
 * last: an interface without it is not ready, as after a crash.
 */
export async function createLinks(changes: readonly LinkChange[], created: readonly string[], label: string): Promise<void> {
  const settings = { group: GROUP, arp: false, withoutIpv6Address: true };
  changeLinks([...changes, ...created.map((name): LinkChange => ({ change: 'set', name, set: settings }))]);
  for (const n of created) await setSysctl(`net/ipv6/conf/${n}/disable_ipv6`, '1');
  changeLinks(created.map((name) => ({ change: 'set', name, set: { alias: label } })));
}
