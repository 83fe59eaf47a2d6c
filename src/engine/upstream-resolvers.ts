/** How guests' DNS queries are resolved beyond our own names (B25): by the settings and the host's files. */
import { hostname } from 'node:os';
import { type HostsFile, parseHostsFile } from '../host/hosts-file.ts';
import { parseResolvConf, type ResolvConf, type ResolverFiles, readResolverFiles } from '../host/resolvers.ts';
import { formatIpv4, gatewayOf } from '../wire/address.ts';
import type { Subnet } from './engine.ts';

export interface ResolverSettings {
  /** Instead of the host's servers, when not empty. */
  dnsServers: readonly string[];
  /** Guests of the shared network get answers from the host's hosts file. */
  dnsHosts: boolean;
}

/** What a network's DNS and DHCP need of the host. */
export interface HostResolution extends ResolvConf {
  hosts: HostsFile | null;
  /** Of our networks. */
  subnets: readonly Subnet[];
}

/** The files as a daemon sees them. */
export interface GivenResolverFiles {
  files: ResolverFiles | null;
  /** The daemon is still connected, and reports changes. */
  current: boolean;
}

/**
 * `subnets` are ours, whose gateways are left out. `given`: for a process that may not read the files where they are
 * now, or that sees older ones: in a container they are mounts, which processes keep. What a daemon reports counts
 * before what the process sees, until the daemon exits.
 */
export function hostResolution(settings: ResolverSettings, subnets: readonly Subnet[], given: GivenResolverFiles | null = null): HostResolution {
  const own = readResolverFiles();
  const [first, second] = given?.current ? [given.files, own] : [own, given?.files];
  const files = { resolvConf: first?.resolvConf ?? second?.resolvConf, hosts: first?.hosts ?? second?.hosts };
  const conf = parseResolvConf(
    files.resolvConf ?? '',
    subnets.map((s) => formatIpv4(gatewayOf(s))),
  );
  const hosts = settings.dnsHosts ? parseHostsFile(files.hosts ?? '', hostname()) : null;
  return { ...conf, ...(settings.dnsServers.length > 0 ? { servers: [...settings.dnsServers] } : {}), hosts, subnets };
}

/** The servers alone, as the daemon sees them. */
export function upstreamResolvers(configured: readonly string[], subnets: readonly Subnet[]): readonly string[] {
  return hostResolution({ dnsServers: configured, dnsHosts: false }, subnets).servers;
}
