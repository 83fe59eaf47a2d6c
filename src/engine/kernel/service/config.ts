/**
 * The interface between the kernel engine and its service process (`service-main.ts`), which holds the sockets of DHCP,
 * DNS and the forwarding listeners. There is one service process per host. It outlives the daemon, which reconnects to
 * its control socket.
 *
 * Control protocol: newline-delimited JSON over a unix socket (0600). Each request `{id, method, params}` has one
 * answer `{id, result}` or `{id, error}`. The service also sends `{event: 'changed'}` when leases or listeners changed.
 */
import type { DesiredRule, DesiredState, Subnet } from '../../engine.ts';
import type { HelperMethods } from '../../process/client.ts';
import { BRIDGES, DHCP_PORTS, DNS_PORT } from '../names.ts';

/** A network with DHCP and DNS. */
export interface ServiceNetwork {
  name: 'shared' | 'host';
  /** Its bridge. */
  interface: string;
  subnet: Subnet;
  /** Local UDP port to which packets to port 67 from this bridge are redirected. */
  dhcpPort: number;
  /** Local port (TCP and UDP) to which DNS queries to the gateway are redirected. */
  dnsPort: number;
  /** False on the host network: only our own names are resolved, and no query is forwarded. */
  dnsForward: boolean;
}

/** A NIC known to DHCP and DNS. */
export interface ServiceNic {
  id: string;
  vmName: string;
  network: 'shared' | 'host';
  /** The DHCP client's hardware address. */
  mac: number;
  /** Sent to the guest in DHCP option 26, unless it is 1500. */
  mtu: number;
  reservedIp?: number;
  /** Its main address, if the guest has set it by itself. */
  staticIp?: number;
  /** All addresses that the guest has set by itself; never leased to another NIC. */
  claimedIps: readonly number[];
  rules: DesiredRule[];
}

/** The whole configuration of the service. */
export interface ServiceConfig {
  networks: ServiceNetwork[];
  nics: ServiceNic[];
  dnsServers: string[];
  /** Names of the host's hosts file are answered. */
  dnsHosts: boolean;
}

/** What a NIC's guest has set by itself: its main address if it did, and all of them. */
export interface SelfSet {
  main: number | null;
  all: readonly number[];
}

/** The configuration for a desired state. `selfSetOf`: what a NIC's guest has set by itself, by its id. */
export function serviceConfigOf(desired: DesiredState, selfSetOf: (id: string) => SelfSet): ServiceConfig {
  return {
    dnsServers: desired.dnsServers,
    dnsHosts: desired.dnsHosts ?? true,
    networks: desired.networks.map((n) => ({
      name: n.name,
      interface: BRIDGES[n.name],
      subnet: n.subnet,
      dhcpPort: DHCP_PORTS[n.name],
      dnsPort: DNS_PORT,
      dnsForward: n.name === 'shared',
    })),
    nics: desired.nics.flatMap((nic) => {
      if (nic.type !== 'shared' && nic.type !== 'host') return [];
      const { main, all } = selfSetOf(nic.id);
      return [
        {
          id: nic.id,
          vmName: nic.vmName,
          network: nic.type,
          mac: nic.outsideMac,
          mtu: nic.mtu,
          rules: nic.rules,
          ...(nic.reservedIp === undefined ? {} : { reservedIp: nic.reservedIp }),
          claimedIps: all,
          ...(main === null ? {} : { staticIp: main }),
        },
      ];
    }),
  };
}

/** What the service reports about a NIC. */
export interface ServiceNicStatus {
  id: string;
  ip: number | null;
  leaseExpires: number | null;
  lastDhcp: number | null;
  rules: { name: string; listening: boolean; reason: string }[];
}

export interface ServedNetworkStatus {
  name: string;
  leases: number;
  poolSize: number;
  message: string;
  dhcpListening: boolean;
  dnsListening: boolean;
  /** Addresses leased to NICs that are not attached. */
  leasedToOthers: number[];
}

export interface ServiceStatus {
  pid: number;
  networks: ServedNetworkStatus[];
  nics: ServiceNicStatus[];
  upstreams: string[];
}

/** Methods of the control socket. */
export interface ServiceMethods extends HelperMethods {
  configure: { params: ServiceConfig; result: ServiceStatus };
  status: { params: Record<string, never>; result: ServiceStatus };
}
