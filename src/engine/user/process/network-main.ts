#!/usr/bin/env node
/**
 * A network process of the user engine: one network's switch, gateway and host sockets (config.ts says how it is talked
 * to).
 *
 * Theory of operation: it is configured as a whole by `configure`; what is already as wanted is left alone, so flows,
 * leases and cables are untouched. It goes on when the daemon is gone. It holds no right that it does not need: what it
 * creates is for its user alone, neither it nor a child may gain privileges, and root's becomes an ordinary user who
 * may listen on low ports (docs/decisions/0012). Limits: one per control socket; a second one ends at once when the
 * first still answers. A changed subnet begins the network anew.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import pino from 'pino';
import { CAPABILITY } from '../../../host/ffi/process.ts';
import { LogFile } from '../../../host/log-file.ts';
import { readResolvers, watchResolvers } from '../../../host/resolvers.ts';
import { confine } from '../../../host/sandbox/confinement.ts';
import { giveUpRoot } from '../../../host/sandbox/give-up-root.ts';
import { serveLines } from '../../../lib/json-lines.ts';
import { loadKernels } from '../../../net/memory/kernels.ts';
import { PacketMemory } from '../../../net/memory/packet-memory.ts';
import { formatIpv4, gatewayOf } from '../../../wire/address.ts';
import { LeaseSaver, loadLeases } from '../../process/lease-file.ts';
import { PortMemory } from '../port/port-memory.ts';
import { hasHandles } from '../sockets/handle-stream.ts';
import { TcpGateway } from '../sockets/tcp.ts';
import type { NetworkConfig, NetworkStatus } from './config.ts';
import { UserNetwork } from './network.ts';
import { serveStream } from './streams.ts';

/** Address space for frames: used only where there are cards and flows. */
const MEMORY_BYTES = 768 << 20;

const text = { type: 'string' } as const;
const { values } = parseArgs({ options: { control: text, leases: text, log: text, user: text, group: text } });
if (!values.control || !values.leases || !values.log) {
  console.error('usage: network-main --control SOCKET --leases FILE --log FILE [--user UID --group GID]');
  process.exit(2);
}
const control = values.control;
const dial = `${control}.dial`;
const leaseFile = values.leases;
process.umask(0o077);
const log = pino({}, new LogFile(values.log));
process.on('SIGHUP', () => {}); // a closing terminal is no reason to end
process.on('uncaughtException', (e) => {
  log.fatal({ error: e.stack }, 'uncaught');
  process.exitCode = 1;
  setTimeout(() => process.exit(1), 50);
});
if (values.user) giveUpRoot(Number(values.user), Number(values.group), [dirname(control), dirname(leaseFile)], [CAPABILITY.bindService]);

const saved = loadLeases(leaseFile);
const saver = new LeaseSaver(leaseFile, leasesNow, log);
const memory = new PacketMemory(MEMORY_BYTES);
const portMemory = new PortMemory(memory);
const kernels = loadKernels(memory);
const clients = new Set<Socket>();
let config: NetworkConfig | null = null;
let network: UserNetwork | null = null;
let changeTold = false;

function leasesNow(): typeof saved {
  if (network && config) saved[config.network.name] = network.dhcp.pool.snapshot();
  return saved;
}

/** Leases have changed: save them in a moment, tell clients. */
function leasesChanged(): void {
  saver.changed();
  changed();
}

/** Once a turn, however much has changed. */
function changed(): void {
  if (changeTold) return;
  changeTold = true;
  setImmediate(() => {
    changeTold = false;
    for (const c of clients) c.write('{"event":"changed"}\n');
  });
}

function refreshUpstreams(): void {
  if (!network || !config) return;
  network.setUpstreams(config.dnsServers.length > 0 ? config.dnsServers : readResolvers([formatIpv4(gatewayOf(config.network.subnet))]));
}

/** What cannot be changed under a running network. */
const frameOf = (c: NetworkConfig): string => JSON.stringify([c.network, c.dnsForward]);

function configure(wanted: NetworkConfig): NetworkStatus {
  if (network && config && frameOf(config) !== frameOf(wanted)) {
    saved[config.network.name] = network.dhcp.pool.snapshot();
    network.close();
    network = null;
  }
  config = wanted;
  if (!network) {
    network = new UserNetwork({
      config: wanted,
      memory,
      portMemory,
      log,
      onLeases: leasesChanged,
      onChanged: changed,
      createTcp: (seam) => new TcpGateway({ ...seam, kernels }),
    });
    network.dhcp.pool.restore(saved[wanted.network.name] ?? []);
  }
  network.configure(wanted);
  refreshUpstreams();
  return status();
}

function status(): NetworkStatus {
  if (!network) {
    const observed = { name: '', interface: null, healthy: false, leases: 0, poolSize: 0, message: 'not configured' };
    return { pid: process.pid, observed, nics: [], upstreams: [] };
  }
  return { pid: process.pid, observed: network.observed(), nics: network.observedNics(), upstreams: [...network.dns.upstreams()] };
}

function forget({ id }: { id: string }): void {
  network?.dhcp.pool.forget(id);
  for (const name of Object.keys(saved)) saved[name] = saved[name].filter((l) => l.id !== id);
  leasesChanged();
}

function stop(): void {
  rmSync(control, { force: true });
  rmSync(dial, { force: true });
  network?.close();
  setTimeout(() => process.exit(0), 50);
}

const server = createServer((socket) => {
  clients.add(socket);
  socket.on('error', () => {}); // 'close' follows
  socket.on('close', () => clients.delete(socket));
  serveLines(socket, {
    configure: async (c: NetworkConfig) => configure(c),
    status: async () => status(),
    facts: async () => network?.facts() ?? { primary: null, mayPing: false },
    stats: async () => network?.stats() ?? [],
    forget: async (p: { id: string }) => forget(p),
    stop: async () => stop(),
  });
});
const streams = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => serveStream(socket, () => network));

/** Listens where a dead process may have left its socket. */
function listenAt(what: Server, path: string, then: () => void): void {
  rmSync(path, { force: true });
  what.listen(path, () => {
    chmodSync(path, 0o600);
    then();
  });
}

function begin(): void {
  const probe = createConnection(control);
  probe.on('connect', () => {
    log.info('another network process answers on this socket: ending');
    process.exit(0);
  });
  probe.on('error', () => {
    listenAt(streams, dial, () =>
      listenAt(server, control, () => log.info({ pid: process.pid, sockets: hasHandles ? 'handles' : 'node:net' }, 'network process started')),
    );
  });
}

const kept = await confine();
if (kept.length > 0) log.warn({ kept }, 'this system did not let us give up all that is not needed');
watchResolvers(refreshUpstreams);
begin();
