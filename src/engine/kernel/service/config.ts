/**
 * The contract between the kernel engine and its service process (`service-main.ts`), which holds the sockets of DHCP,
 * DNS and the forwarding listeners. One service process per host; it outlives the daemon, and is re-attached to by its
 * control socket.
 *
 * Control protocol: newline-delimited JSON over a unix socket (0600). Each request `{id, method, params}` has one
 * answer `{id, result}` or `{id, error}`. The service also sends `{event: 'changed'}` when leases or listeners changed.
 */
import type { DesiredRule, DesiredState, Subnet } from '../../engine.ts';
import type { HelperMethods } from '../../process/client.ts';
import { BRIDGES, DHCP_PORTS, DNS_PORT } from '../names.ts';

/** One network that is served. */
export interface ServiceNetwork {
  name: 'shared' | 'host';
  /** Bridge interface that carries it. */
  interface: string;
  subnet: Subnet;
  /** Local UDP port that packets to port 67 of this bridge are rewritten to. */
  dhcpPort: number;
  /** Local port (TCP and UDP) that DNS to the gateway is redirected to. */
  dnsPort: number;
  /** host network: only our own names are answered, nothing is forwarded outside. */
  dnsForward: boolean;
}

/** One card known to DHCP and DNS. */
export interface ServiceNic {
  id: string;
  vmName: string;
  network: 'shared' | 'host';
  /** chaddr on the network. */
  mac: number;
  /** Told to the guest by option 26, when not 1500. */
  mtu: number;
  reservedIp?: number;
  /** Address the guest took by itself, learned by the engine; never leased to another. */
  staticIp?: number;
  rules: DesiredRule[];
}

/** The whole of what the service shall do. */
export interface ServiceConfig {
  networks: ServiceNetwork[];
  nics: ServiceNic[];
  dnsServers: string[];
}

/**
 * What the service has to do for a desired state. `staticOf` gives the address that a card's guest has set by itself.
 */
export function serviceConfigOf(desired: DesiredState, staticOf: (id: string) => number | null): ServiceConfig {
  return {
    dnsServers: desired.dnsServers,
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
      const staticIp = staticOf(nic.id);
      return [
        {
          id: nic.id,
          vmName: nic.vmName,
          network: nic.type,
          mac: nic.outsideMac,
          mtu: nic.mtu,
          rules: nic.rules,
          ...(nic.reservedIp === undefined ? {} : { reservedIp: nic.reservedIp }),
          ...(staticIp === null ? {} : { staticIp }),
        },
      ];
    }),
  };
}

/** What the service reports of one card. */
export interface ServiceNicStatus {
  id: string;
  ip: number | null;
  leaseExpires: number | null;
  lastDhcp: number | null;
  rules: { name: string; listening: boolean; reason: string }[];
}

export interface ServiceStatus {
  pid: number;
  networks: { name: string; leases: number; poolSize: number; message: string; dhcpListening: boolean; dnsListening: boolean }[];
  nics: ServiceNicStatus[];
  upstreams: string[];
}

/** Methods of the control socket. */
export interface ServiceMethods extends HelperMethods {
  configure: { params: ServiceConfig; result: ServiceStatus };
  status: { params: Record<string, never>; result: ServiceStatus };
}
