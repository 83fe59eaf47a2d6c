#!/usr/bin/env node
/**
 * The kernel engine's service process: DHCP, DNS and the forwarding listeners (docs/decisions/0001).
 *
 * Theory of operation: `configure` gives it the whole configuration; what is already as wanted is left alone, so
 * established connections and leases continue. It runs as a user of its own and keeps two of root's capabilities: to
 * listen on low ports and to change the host's ARP table. It runs no program and opens only its own files
 * (docs/decisions/0012, 0016). Start and shutdown: engine/process/helper-process.ts.
 */
import '../../../host/no-debugger.ts';
import { CAPABILITY } from '../../../host/ffi/process.ts';
import { dateOf } from '../../../lib/clock.ts';
import { isLoopback } from '../../../net/policy/addresses.ts';
import { parseIpv4, subnetContains } from '../../../wire/address.ts';
import { startHelper } from '../../process/helper-process.ts';
import { hostResolution } from '../../upstream-resolvers.ts';
import type { ServiceConfig, ServiceNic, ServiceStatus } from './config.ts';
import { type ListenerTarget, RuleListener } from './forward.ts';
import { ServedNetwork } from './network.ts';

const helper = startHelper({ program: 'service-main', title: 'service', capabilities: [CAPABILITY.bindService, CAPABILITY.netAdmin] });
const networks = new Map<string, ServedNetwork>();
/** By `listenerKey`. */
const listeners = new Map<string, RuleListener>();
let config: ServiceConfig = { networks: [], nics: [], dnsServers: [], dnsHosts: true };

const listenerKey = (nic: ServiceNic, rule: ServiceNic['rules'][number]): string => `${nic.id}/${JSON.stringify(rule)}`;

function leasesChanged(): void {
  helper.leases.changed();
  for (const n of networks.values()) n.services.refreshNames();
  for (const l of listeners.values()) l.follow();
  helper.notifyChanged();
}

/** The main address of a NIC is what its guest set by itself, else its lease. A lease beside the former is unused. */
function targetOf(id: string): ListenerTarget | null {
  const nic = config.nics.find((n) => n.id === id);
  const ip = nic?.staticIp ?? (nic && networks.get(nic.network)?.services.boundLease(id)?.ip);
  return nic && ip !== undefined ? { ip, live: [ip, ...nic.claimedIps] } : null;
}

/** The host's loopback, and the networks' own addresses. */
function isCarried(address: string): boolean {
  const ip = parseIpv4(address);
  return ip !== null && (isLoopback(ip) || config.networks.some((n) => subnetContains(n.subnet, ip)));
}

function refreshResolution(): void {
  const subnets = [...networks.values()].map((n) => n.config.subnet);
  const resolution = hostResolution(config, subnets, helper.resolverFiles);
  for (const n of networks.values()) n.services.setResolution(resolution);
}

function configure(wanted: ServiceConfig): ServiceStatus {
  config = wanted;
  configureNetworks();
  configureListeners();
  refreshResolution();
  return status();
}

function configureNetworks(): void {
  const keep = new Set(config.networks.map((n) => JSON.stringify(n)));
  for (const [name, n] of [...networks]) {
    if (keep.has(JSON.stringify(n.config))) continue;
    helper.leases.detach(name);
    n.close();
    networks.delete(name);
  }
  for (const n of config.networks) {
    let served = networks.get(n.name);
    if (!served) {
      served = new ServedNetwork(n, helper.log, leasesChanged);
      helper.leases.attach(n.name, served.services.dhcp.pool);
      networks.set(n.name, served);
    }
    served.services.setNics(config.nics.filter((nic) => nic.network === n.name));
  }
}

/** Listeners are kept while rule and NIC are the same; the target is looked up for each new connection. */
function configureListeners(): void {
  const wanted = new Set(config.nics.flatMap((nic) => nic.rules.map((rule) => listenerKey(nic, rule))));
  for (const [key, l] of [...listeners]) {
    if (wanted.has(key)) continue;
    l.close();
    listeners.delete(key);
  }
  for (const nic of config.nics) {
    for (const rule of nic.rules) {
      const key = listenerKey(nic, rule);
      if (!listeners.has(key))
        listeners.set(
          key,
          new RuleListener(
            rule,
            () => targetOf(nic.id),
            isCarried,
            () => helper.notifyChanged(),
          ),
        );
    }
  }
  for (const l of listeners.values()) l.follow();
}

function status(): ServiceStatus {
  return {
    pid: process.pid,
    networks: [...networks.values()].map((n) => ({
      name: n.config.name,
      ...n.services.poolStatus(),
      dhcpListening: n.dhcpListening,
      dnsListening: n.dnsListening,
      leasedToOthers: n.services.leasedToOthers(new Set(config.nics.map((nic) => nic.id))),
    })),
    nics: config.nics.map((nic) => {
      const services = networks.get(nic.network)?.services;
      const lease = services?.boundLease(nic.id);
      return {
        id: nic.id,
        ip: lease?.ip ?? null,
        leaseExpires: lease ? dateOf(lease.expires) : null,
        lastDhcp: services?.dhcp.lastSeen.get(nic.id) ?? null,
        rules: nic.rules.map((r) => {
          const l = listeners.get(listenerKey(nic, r));
          return { name: r.name, listening: l?.listening ?? false, reason: l?.reason ?? 'not configured' };
        }),
      };
    }),
    upstreams: [...networks.values()].find((n) => n.config.dnsForward)?.services.upstreams ?? [],
  };
}

await helper.run({
  methods: {
    configure: async (c: ServiceConfig) => configure(c),
    status: async () => status(),
    forget: async ({ id }: { id: string }) => {
      helper.leases.forget(id);
      leasesChanged();
    },
  },
  onResolversChanged: refreshResolution,
});
