/**
 * Prints, as JSON, what src/host/ reads from the kernel in a namespace: links, addresses, routes, counters, the
 * addresses that interface $2 receives before and after one is added and removed, and the state of neighbour $3 before
 * and after it is probed.
 */
import { listAddresses, listLinks, listRoutes } from '../../src/host/links.ts';
import { readCounters } from '../../src/host/netlink/link-messages.ts';
import { neighbourState, probeNeighbour } from '../../src/host/netlink/neighbours.ts';
import { addFilterAddress, listFilterAddresses, removeFilterAddress } from '../../src/host/unicast-filter.ts';
import { parseIpv4 } from '../../src/wire/address.ts';

const [, , device, neighbour] = process.argv as [string, string, string, string];
const MAC = 0x5a45450000aa;
const ip = parseIpv4(neighbour) as number;
const received = [listFilterAddresses(device).has(MAC)];
await addFilterAddress(device, MAC);
received.push(listFilterAddresses(device).has(MAC));
await removeFilterAddress(device, MAC);
received.push(listFilterAddresses(device).has(MAC));
const read = {
  links: await listLinks(),
  addresses: Object.fromEntries(await listAddresses()),
  main: await listRoutes(),
  all: await listRoutes('all'),
  counters: readCounters(),
  received,
  states: [neighbourState(ip, device), probeNeighbour(ip, device), neighbourState(ip, device), probeNeighbour(ip + 1, device), neighbourState(ip + 1, device)],
};
console.log(JSON.stringify(read));
