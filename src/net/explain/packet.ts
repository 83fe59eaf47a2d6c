/** The packet that `explain` is asked about. */
import { DHCP_CLIENT_PORT } from '../../wire/dhcpv4.ts';
import { formatIp, formatIpPort, type IpAddress } from '../../wire/ip-address.ts';
import { DHCP_SERVER_PORT } from '../policy/services.ts';

export type PacketProtocol = 'tcp' | 'udp' | 'icmp' | 'other';
export type PacketAddress = IpAddress;

export interface Packet {
  protocol: PacketProtocol;
  /** null: the VM's own address. */
  source: PacketAddress | null;
  /** null: the client's usual port: 68 to a DHCP server, else one that no service has. */
  sourcePort: number | null;
  destination: PacketAddress;
  /** null where the protocol has none, or it does not matter. */
  port: number | null;
}

/** -1: a port that no service has. */
export function sourcePortOf(p: Packet): number {
  return p.sourcePort ?? (p.protocol === 'udp' && p.port === DHCP_SERVER_PORT ? DHCP_CLIENT_PORT : -1);
}

export const formatAddress = formatIp;

export function formatEndpoint(a: PacketAddress, port: number | null): string {
  return port === null ? formatIp(a) : formatIpPort(a, port);
}
