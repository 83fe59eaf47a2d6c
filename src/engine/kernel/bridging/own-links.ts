/** Creates our interfaces so that the host's own stack ignores them. */
import { ipBatch } from '../../../host/links.ts';
import { setSysctl } from '../../../host/sysctl.ts';
import { GROUP } from '../names.ts';

/**
 * Runs `lines`, which create interfaces, and then switches ARP and IPv6 off on those in `created`. The label is set
 * last: an interface without it is not ready, as after a crash.
 */
export async function createLinks(lines: readonly string[], created: readonly string[], label: string): Promise<void> {
  await ipBatch([...lines, ...created.flatMap((n) => [`link set dev ${n} group ${GROUP}`, `link set dev ${n} arp off addrgenmode none`])]);
  for (const n of created) await setSysctl(`net/ipv6/conf/${n}/disable_ipv6`, '1');
  await ipBatch(created.map((n) => `link set dev ${n} alias ${label}`));
}
