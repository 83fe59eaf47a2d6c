/**
 * DHCP and DNS of one network of ours: what both engines serve, without the sockets to guests.
 *
 * Theory of operation: each engine feeds in DHCP messages and DNS queries, and delivers the answers. A guest's name
 * resolves to the address that it set by itself, or to its lease once it has taken it up (B25). Before a DHCP message
 * is answered, the engine probes its `candidate`, each in its own way.
 *
 * Limits: those of net/dhcp/server.ts and dns-service.ts.
 */
import { randomInt } from 'node:crypto';
import { monotonicMs } from '../lib/clock.ts';
import type { Lease } from '../net/dhcp/lease-pool.ts';
import { type DhcpAnswer, type DhcpNic, DhcpServer } from '../net/dhcp/server.ts';
import { DnsForwarder } from '../net/dns-forwarder.ts';
import { DNS_SUFFIX } from '../net/dns-local-zones.ts';
import { formatIpv4, gatewayOf } from '../wire/address.ts';
import { DhcpType } from '../wire/dhcpv4.ts';
import { DnsService } from './dns-service.ts';
import type { DesiredNetwork } from './engine.ts';
import type { HostResolution } from './upstream-resolvers.ts';

const LEASE_SECONDS = 3600;

/** A NIC that is served. */
export interface ServedNic extends Omit<DhcpNic, 'hostname'> {
  vmName: string;
}

export interface NetworkServicesOptions {
  network: DesiredNetwork;
  /** False: only our own names are resolved. */
  dnsForward: boolean;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
  /** A lease was taken up, renewed or given back. */
  onLeases: () => void;
}

export class NetworkServices {
  readonly dhcp: DhcpServer;
  /** Answers DNS queries. */
  readonly dns: DnsService;
  readonly #forwarder: DnsForwarder;
  readonly #options: NetworkServicesOptions;
  #nics: readonly ServedNic[] = [];
  #wasExhausted = false;

  constructor(options: NetworkServicesOptions) {
    const { network, dnsForward, log } = options;
    const { subnet } = network;
    this.#options = options;
    this.dhcp = new DhcpServer({ subnet, leaseSeconds: LEASE_SECONDS, domain: DNS_SUFFIX });
    this.#forwarder = new DnsForwarder({ subnet, gateway: gatewayOf(subnet), forward: dnsForward }, () => randomInt(65_536));
    this.dns = new DnsService(this.#forwarder, (o, m) => log.info({ network: network.name, ...o }, m));
  }

  close(): void {
    this.dns.close();
  }

  setNics(nics: readonly ServedNic[]): void {
    this.#nics = nics;
    this.dhcp.setNics(nics.map(({ vmName, ...nic }) => ({ ...nic, hostname: vmName })));
    this.refreshNames();
  }

  /** To be called when leases have changed, or time has passed. */
  refreshNames(): void {
    const names = new Map<string, number>();
    for (const nic of this.#nics) {
      const ip = nic.staticIp ?? this.boundLease(nic.id)?.ip;
      if (ip !== undefined) names.set(nic.vmName, ip);
    }
    this.#forwarder.zones.setNames(names);
  }

  /** The lease that a NIC's guest has taken up and that is in force; null when there is none. */
  boundLease(id: string): Lease | null {
    const lease = this.dhcp.pool.lease(id, monotonicMs());
    return lease?.bound ? lease : null;
  }

  /** The host's servers, search list and hosts file; a network whose queries are not forwarded gets none of them. */
  setResolution({ hosts, search, subnets, ...upstreams }: HostResolution): void {
    if (!this.#options.dnsForward) return;
    this.dns.setUpstreams(upstreams);
    this.#forwarder.zones.ourSubnets = subnets;
    this.#forwarder.zones.setHosts(hosts);
    this.dhcp.search = search;
  }

  /** Addresses leased to NICs that are not attached. */
  leasedToOthers(attached: { has(id: string): boolean }): number[] {
    return this.dhcp.pool.leases(monotonicMs()).flatMap((l) => (attached.has(l.id) ? [] : [l.ip]));
  }

  /** Resolvers that DNS queries are forwarded to. */
  get upstreams(): string[] {
    return [...this.#forwarder.upstreams()];
  }

  /** Handles a DHCP message; `send` gets the answer, if there is one, before `onLeases` is called. */
  answerDhcp(message: Uint8Array, send: (answer: DhcpAnswer) => void): void {
    const { network, log, onLeases } = this.#options;
    const answer = this.dhcp.onMessage(message, monotonicMs());
    if (this.dhcp.exhausted && !this.#wasExhausted) log.warn({ network: network.name }, 'the address pool is exhausted');
    this.#wasExhausted = this.dhcp.exhausted;
    if (typeof answer !== 'string') {
      if (answer.ip !== 0 && answer.type !== DhcpType.offer)
        log.info({ network: network.name, nic: answer.nic, type: answer.type, ip: formatIpv4(answer.ip) }, 'dhcp');
      send(answer);
    } else if (answer !== 'released' && answer !== 'declined') return;
    onLeases();
  }

  /** `message`: what is wrong and how to fix it; empty when nothing is. */
  poolStatus(): { leases: number; poolSize: number; message: string } {
    const { pool, exhausted } = this.dhcp;
    const message = exhausted ? 'the address pool is exhausted: stop or delete VMs, or set a larger subnet' : '';
    return { leases: pool.leases(monotonicMs()).length, poolSize: pool.size, message };
  }
}
