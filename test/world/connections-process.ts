/**
 * Prints, as JSON, the connections that each of the given addresses has opened, as the kernel's connection table has
 * them. `cut` first: removes them instead.
 */
import { connectionsFrom } from '../../src/host/netlink/connection-list.ts';
import { cutConnections } from '../../src/host/netlink/conntrack.ts';
import { parseIpv4 } from '../../src/wire/address.ts';

const [, , ...args] = process.argv;
const cut = args[0] === 'cut';
const addresses = args.slice(cut ? 1 : 0).map((a) => parseIpv4(a) as number);
if (cut) for (const source of addresses) await cutConnections([{ source }], (c) => c.source === source);
console.log(JSON.stringify(cut ? null : addresses.flatMap(connectionsFrom)));
