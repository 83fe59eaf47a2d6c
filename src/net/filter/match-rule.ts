/**
 * Which rule of a filter decides about a packet (docs/filters.md). Shared by the user engine and `explain`; the kernel
 * engine's rules are the same (engine/kernel/rules/filter-table.ts).
 */
import { subnetContains } from '../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../wire/dhcpv4.ts';
import { IpProtocol } from '../../wire/ipv4.ts';
import { DHCP_SERVER_PORT, DNS_SERVICE_PORT } from '../policy/services.ts';
import { type FilterEnd, type FilterRule, namesPorts, PORT_PROTOCOLS } from './filter-rule.ts';

/** A packet as its VM sees it. One object is used for many packets. */
export interface FilteredPacket {
  /** The VM sends it. */
  outbound: boolean;
  protocol: number;
  source: number;
  destination: number;
  /** Ports of TCP and UDP; -1 = none. */
  sourcePort: number;
  destinationPort: number;
}

/** What the VM's network knows of addresses. */
export interface FilterNetwork {
  /** The gateway, whose DNS `local` does not concern; -1 = none. */
  readonly gateway: number;
  /** An address of the host, of another VM, or of a group: what rules for `local` apply to. */
  isLocal(ip: number): boolean;
}

/** The first rule that matches, or null. Called per packet: no allocation. */
export function matchRule(rules: readonly FilterRule[], p: FilteredPacket, network: FilterNetwork): FilterRule | null {
  const dhcp = isDhcp(p);
  for (const rule of rules) {
    // the VM keeps its address under `block any`; a rule that names DHCP's ports decides about it
    if (dhcp && !namesPorts(rule)) continue;
    if (matchesDirection(rule, p, network) && matchesPacket(rule, p)) return rule;
  }
  return null;
}

function matchesDirection({ direction }: FilterRule, p: FilteredPacket, network: FilterNetwork): boolean {
  if (direction === 'any') return true;
  if (direction === 'local') return network.isLocal(p.outbound ? p.destination : p.source) && !isGatewayDns(p, network.gateway);
  return (direction === 'out') === p.outbound;
}

function matchesPacket(rule: FilterRule, p: FilteredPacket): boolean {
  if (rule.protocols.length > 0 && !rule.protocols.includes(p.protocol)) return false;
  if (namesPorts(rule) && !PORT_PROTOCOLS.includes(p.protocol)) return false;
  return matchesEnd(rule.from, p.source, p.sourcePort) && matchesEnd(rule.to, p.destination, p.destinationPort);
}

function matchesEnd({ subnet, ports }: FilterEnd, ip: number, port: number): boolean {
  if (subnet !== null && !subnetContains(subnet, ip)) return false;
  return ports === null || (port >= ports.first && port <= ports.last);
}

function isDhcp(p: FilteredPacket): boolean {
  if (p.protocol !== IpProtocol.udp) return false;
  const [client, server] = p.outbound ? [p.sourcePort, p.destinationPort] : [p.destinationPort, p.sourcePort];
  return client === DHCP_CLIENT_PORT && server === DHCP_SERVER_PORT;
}

function isGatewayDns(p: FilteredPacket, gateway: number): boolean {
  if (!PORT_PROTOCOLS.includes(p.protocol)) return false;
  return p.outbound ? p.destination === gateway && p.destinationPort === DNS_SERVICE_PORT : p.source === gateway && p.sourcePort === DNS_SERVICE_PORT;
}
