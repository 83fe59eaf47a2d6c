#!/usr/bin/env node
/**
 * A network process of the user engine: one network's switch, gateway and host sockets (control protocol: config.ts).
 *
 * Theory of operation: `configure` gives it the whole configuration; what is already as wanted is left alone, so flows,
 * leases and links continue. The process holds only the privileges that it needs: root's becomes an ordinary user who
 * may listen on low ports (docs/decisions/0012). Start and shutdown: engine/process/helper-process.ts. Limits: a
 * changed subnet starts the network anew.
 */
import '../../../host/no-debugger.ts';
import { createServer } from 'node:net';
import { CAPABILITY } from '../../../host/ffi/process.ts';
import { loadKernels } from '../../../net/memory/kernels.ts';
import { PacketMemory } from '../../../net/memory/packet-memory.ts';
import { startHelper } from '../../process/helper-process.ts';
import { hostResolution } from '../../upstream-resolvers.ts';
import { PortMemory } from '../port/port-memory.ts';
import { hasHandles } from '../sockets/handle-stream.ts';
import { TcpGateway } from '../sockets/tcp.ts';
import type { NetworkConfig, NetworkStatus } from './config.ts';
import { UserNetwork } from './network.ts';
import { serveStream } from './streams.ts';

/** Address space for frames; only NICs and flows use memory of it. */
const MEMORY_BYTES = 768 << 20;

const helper = startHelper({ program: 'network-main', title: 'network process', capabilities: [CAPABILITY.bindService] });
const memory = new PacketMemory(MEMORY_BYTES);
const portMemory = new PortMemory(memory);
const kernels = loadKernels(memory);
let config: NetworkConfig | null = null;
let network: UserNetwork | null = null;

function refreshResolution(): void {
  if (!network || !config) return;
  const settings = { dnsServers: config.dnsServers, dnsHosts: config.dnsHosts ?? true };
  network.services.setResolution(hostResolution(settings, [config.network.subnet, ...(config.otherSubnets ?? [])], helper.resolverFiles));
}

/** What cannot change while the network runs. */
const fixedPart = (c: NetworkConfig): string => JSON.stringify([c.network, c.dnsForward]);

function configure(wanted: NetworkConfig): NetworkStatus {
  if (network && config && fixedPart(config) !== fixedPart(wanted)) {
    helper.leases.detach(config.network.name);
    network.close();
    network = null;
  }
  config = wanted;
  if (!network) {
    network = new UserNetwork({
      config: wanted,
      memory,
      portMemory,
      log: helper.log,
      onLeases: () => {
        helper.leases.changed();
        helper.notifyChanged();
      },
      onChanged: () => helper.notifyChanged(),
      createTcp: (options) => new TcpGateway({ ...options, kernels }),
    });
    helper.leases.attach(wanted.network.name, network.services.dhcp.pool);
  }
  network.configure(wanted);
  refreshResolution();
  return status();
}

function status(): NetworkStatus {
  if (!network) {
    const observed = { name: '', interface: null, healthy: false, leases: 0, poolSize: 0, message: 'not configured' };
    return { pid: process.pid, observed, nics: [], upstreams: [] };
  }
  return { pid: process.pid, observed: network.observed(), nics: network.observedNics(), upstreams: network.services.upstreams };
}

await helper.run({
  methods: {
    configure: async (c: NetworkConfig) => configure(c),
    status: async () => status(),
    facts: async () => network?.facts() ?? { primary: null, mayPing: false },
    stats: async () => network?.stats() ?? [],
    forget: async ({ id }: { id: string }) => {
      helper.leases.forget(id);
      helper.notifyChanged();
    },
  },
  onResolversChanged: refreshResolution,
  onStop: () => network?.close(),
  streams: createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => serveStream(socket, () => network)),
  startInfo: { sockets: hasHandles ? 'handles' : 'node:net' },
});
