/** The gateway's services, by their ports: DHCP and DNS. */
import { DHCP_CLIENT_PORT } from '../../wire/dhcpv4.ts';

export const DHCP_SERVER_PORT = 67;
export const DHCP6_SERVER_PORT = 547;
export const DHCP6_CLIENT_PORT = 546;
export const DNS_SERVICE_PORT = 53;

export const isDhcpRequest = (sourcePort: number, port: number): boolean => sourcePort === DHCP_CLIENT_PORT && port === DHCP_SERVER_PORT;

/** What only a DHCP server sends: no guest may (B91). */
export const isDhcpReply = (sourcePort: number, port: number): boolean => sourcePort === DHCP_SERVER_PORT && port === DHCP_CLIENT_PORT;
export const isDhcp6Reply = (sourcePort: number, port: number): boolean => sourcePort === DHCP6_SERVER_PORT && port === DHCP6_CLIENT_PORT;
