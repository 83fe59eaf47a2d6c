#!/usr/bin/env node
/**
 * The kernel engine's service process: DHCP, DNS and the forwarding listeners (docs/decisions/0001).
 *
 * Theory of operation: `configure` gives it the whole configuration; what is already as wanted is left alone, so
 * established connections and leases continue. It runs as a user of its own and keeps two of root's capabilities: to
 * listen on low ports and to change the host's ARP table. It runs no program and opens only its own files
 * (docs/decisions/0012, 0016). Start and shutdown: engine/process/helper-process.ts.
 */
import { CAPABILITY } from '../../../host/ffi/process.ts';
import { readResolvers } from '../../../host/resolvers.ts';
import { formatIpv4, gatewayOf } from '../../../wire/address.ts';
import { startHelper } from '../../process/helper-process.ts';
import type { ServiceConfig, ServiceNic, ServiceStatus } from './config.ts';
import { RuleListener } from './forward.ts';
import { ServedNetwork } from './network.ts';

const helper = startHelper({ program: 'service-main', title: 'service', capabilities: [CAPABILITY.bindService, CAPABILITY.netAdmin] });
const networks = new Map<string, ServedNetwork>();
const listeners = new Map<string, RuleListener>();
let config: ServiceConfig = { networks: [], nics: [], dnsServers: [] };

function leasesChanged(): void {
  helper.leases.changed();
  changed();
}

function changed(): void {
  refreshNames();
  for (const l of listeners.values()) l.follow();
  helper.notifyChanged();
}

/** The address of a card: what it took by itself, else its lease. */
function addressOf(nic: ServiceNic): number | null {
  return nic.staticIp ?? networks.get(nic.network)?.dhcp.pool.lease(nic.id, Date.now())?.ip ?? null;
}

function boundAddressOf(nic: ServiceNic): number | null {
  if (nic.staticIp !== undefined) return nic.staticIp;
  const lease = networks.get(nic.network)?.dhcp.pool.lease(nic.id, Date.now());
  return lease?.bound ? lease.ip : null;
}

function refreshNames(): void {
  for (const [name, n] of networks) {
    const names = new Map<string, number>();
    for (const nic of config.nics) {
      const ip = nic.network === name ? boundAddressOf(nic) : null;
      if (ip !== null) names.set(nic.vmName, ip);
    }
    n.dns.setNames(names);
  }
}

function refreshUpstreams(): void {
  const own = [...networks.values()].map((n) => formatIpv4(gatewayOf(n.config.subnet)));
  const servers = config.dnsServers.length > 0 ? config.dnsServers : readResolvers(own);
  for (const n of networks.values()) n.dns.setUpstreams(servers);
}

function configure(wanted: ServiceConfig): ServiceStatus {
  config = wanted;
  const keep = new Set(wanted.networks.map((n) => JSON.stringify(n)));
  for (const [name, n] of [...networks]) {
    if (keep.has(JSON.stringify(n.config))) continue;
    helper.leases.detach(name);
    n.close();
    networks.delete(name);
  }
  for (const n of wanted.networks) {
    let served = networks.get(n.name);
    if (!served) {
      served = new ServedNetwork(n, helper.log, leasesChanged);
      helper.leases.attach(n.name, served.dhcp.pool);
      networks.set(n.name, served);
    }
    served.dhcp.setNics(
      wanted.nics
        .filter((nic) => nic.network === n.name)
        .map((nic) => ({
          id: nic.id,
          mac: nic.mac,
          hostname: nic.vmName,
          mtu: nic.mtu,
          ...(nic.reservedIp === undefined ? {} : { reservedIp: nic.reservedIp }),
          ...(nic.staticIp === undefined ? {} : { staticIp: nic.staticIp }),
        })),
    );
  }
  configureListeners();
  for (const l of listeners.values()) l.follow();
  refreshUpstreams();
  refreshNames();
  return status();
}

/** Listeners are kept while rule and card are the same; the target is looked up at each new connection. */
function configureListeners(): void {
  const wanted = new Map<string, { nic: ServiceNic; key: string }>();
  for (const nic of config.nics) for (const rule of nic.rules) wanted.set(`${nic.id}/${JSON.stringify(rule)}`, { nic, key: rule.name });
  for (const [key, l] of [...listeners]) {
    if (wanted.has(key)) continue;
    l.close();
    listeners.delete(key);
  }
  for (const nic of config.nics) {
    for (const rule of nic.rules) {
      const key = `${nic.id}/${JSON.stringify(rule)}`;
      if (listeners.has(key)) continue;
      const target = (): number | null => {
        const now = config.nics.find((n) => n.id === nic.id);
        return now ? addressOf(now) : null;
      };
      listeners.set(key, new RuleListener(rule, target, changed));
    }
  }
}

function status(): ServiceStatus {
  const now = Date.now();
  return {
    pid: process.pid,
    networks: [...networks.values()].map((n) => ({
      name: n.config.name,
      leases: n.dhcp.pool.leases(now).length,
      poolSize: n.dhcp.pool.size,
      exhausted: n.dhcp.exhausted,
      dhcpListening: n.dhcpListening,
      dnsListening: n.dnsListening,
    })),
    nics: config.nics.map((nic) => {
      const n = networks.get(nic.network);
      const lease = n?.dhcp.pool.lease(nic.id, now);
      return {
        id: nic.id,
        ip: lease?.bound ? lease.ip : null,
        leaseExpires: lease?.bound ? lease.expires : null,
        lastDhcp: n?.dhcp.lastSeen.get(nic.id) ?? null,
        rules: nic.rules.map((r) => {
          const l = listeners.get(`${nic.id}/${JSON.stringify(r)}`);
          return { name: r.name, listening: l?.listening ?? false, reason: l?.reason ?? 'not configured' };
        }),
      };
    }),
    upstreams: [...([...networks.values()][0]?.dns.upstreams() ?? [])],
  };
}

await helper.run({
  methods: {
    configure: async (c: ServiceConfig) => configure(c),
    status: async () => status(),
    forget: async ({ id }: { id: string }) => {
      helper.leases.forget(id);
      changed();
    },
  },
  onResolversChanged: refreshUpstreams,
});
