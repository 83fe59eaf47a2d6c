#!/usr/bin/env node
/**
 * The kernel engine's service process: DHCP, DNS and the forwarding listeners (docs/decisions/0001).
 *
 * Theory of operation: it is configured as a whole by `configure`; what is already as wanted is left alone, so
 * established connections and leases are untouched. It goes on when the daemon is gone. It becomes a user of its own,
 * and keeps of root's rights those to listen on low ports and to change the host's ARP table; it runs no program, and
 * opens no file but its own (docs/decisions/0012, 0016). Limits: one per run folder; a second one ends at once when the
 * first still answers.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import pino from 'pino';
import { CAPABILITY } from '../../../host/ffi/process.ts';
import { LogFile } from '../../../host/log-file.ts';
import { readResolvers, watchResolvers } from '../../../host/resolvers.ts';
import { confine } from '../../../host/sandbox/confinement.ts';
import { giveUpRoot } from '../../../host/sandbox/give-up-root.ts';
import { serveLines } from '../../../lib/json-lines.ts';
import { formatIpv4, gatewayOf } from '../../../wire/address.ts';
import { LeaseSaver, type Leases, loadLeases } from '../../process/lease-file.ts';
import type { ServiceConfig, ServiceNic, ServiceStatus } from './config.ts';
import { RuleListener } from './forward.ts';
import { ServedNetwork } from './network.ts';

const text = { type: 'string' } as const;
const { values } = parseArgs({ options: { control: text, leases: text, log: text, user: text, group: text } });
if (!values.control || !values.leases || !values.log) {
  console.error('usage: service-main --control SOCKET --leases FILE --log FILE [--user UID --group GID]');
  process.exit(2);
}
const control = values.control;
const leaseFile = values.leases;
process.umask(0o077);
const log = pino({}, new LogFile(values.log));
process.on('SIGHUP', () => {}); // a closing terminal is no reason to end
process.on('uncaughtException', (e) => {
  log.fatal({ error: e.stack }, 'uncaught');
  process.exitCode = 1;
  setTimeout(() => process.exit(1), 50);
});
if (values.user) giveUpRoot(Number(values.user), Number(values.group), [dirname(control), dirname(leaseFile)], [CAPABILITY.bindService, CAPABILITY.netAdmin]);

const saved = loadLeases(leaseFile);
const saver = new LeaseSaver(leaseFile, leasesNow, log);
const networks = new Map<string, ServedNetwork>();
const listeners = new Map<string, RuleListener>();
let config: ServiceConfig = { networks: [], nics: [], dnsServers: [] };
const clients = new Set<Socket>();

function leasesNow(): Leases {
  const all: Leases = { ...saved };
  for (const [name, n] of networks) all[name] = n.dhcp.pool.snapshot();
  return all;
}

/** Leases have changed: save them in a moment, tell names and clients. */
function leasesChanged(): void {
  saver.changed();
  changed();
}

function changed(): void {
  refreshNames();
  for (const l of listeners.values()) l.follow();
  for (const c of clients) c.write('{"event":"changed"}\n');
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
    saved[name] = n.dhcp.pool.snapshot();
    n.close();
    networks.delete(name);
  }
  for (const n of wanted.networks) {
    let served = networks.get(n.name);
    if (!served) {
      served = new ServedNetwork(n, log, leasesChanged);
      served.dhcp.pool.restore(saved[n.name] ?? []);
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

function forget({ id }: { id: string }): void {
  for (const n of networks.values()) n.dhcp.pool.forget(id);
  for (const name of Object.keys(saved)) saved[name] = saved[name].filter((l) => l.id !== id);
  leasesChanged();
}

function stop(): void {
  rmSync(control, { force: true });
  setTimeout(() => process.exit(0), 50);
}

const server = createServer((socket) => {
  clients.add(socket);
  socket.on('error', () => {}); // 'close' follows
  socket.on('close', () => clients.delete(socket));
  serveLines(socket, {
    configure: async (c: ServiceConfig) => configure(c),
    status: async () => status(),
    forget: async (p: { id: string }) => forget(p),
    stop: async () => stop(),
  });
});

function listen(): void {
  const probe = createConnection(control);
  probe.on('connect', () => {
    log.info('another service answers on this socket: ending');
    process.exit(0);
  });
  probe.on('error', () => {
    rmSync(control, { force: true });
    server.listen(control, () => {
      chmodSync(control, 0o600);
      log.info({ pid: process.pid }, 'service started');
    });
  });
}

const kept = await confine();
if (kept.length > 0) log.warn({ kept }, 'this system did not let us give up all that is not needed');
watchResolvers(refreshUpstreams);
listen();
