/**
 * The host's interfaces, addresses and routes, as `ip -j` prints them. A dump during which they changed may miss some,
 * so it is read again.
 */
import { parseIpv4, type SubnetLike } from '../wire/address.ts';
import { run } from './exec.ts';

export interface Link {
  name: string;
  index: number;
  /** `bridge`, `tun`, `veth`, …; empty for a physical card. */
  kind: string;
  master: string | null;
  /** The interface below a macvlan or VLAN; null for others. */
  parent: string | null;
  /** `bridge`, `private`, … of a macvlan; empty for others. */
  mode: string;
  up: boolean;
  /** Receives frames to every group. */
  allMulticast: boolean;
  /** Receives all frames; does not count captures. */
  promiscuous: boolean;
  alias: string;
  mac: string;
  mtu: number;
  group: string;
}

interface IpLink {
  ifname?: string;
  ifindex: number;
  master?: string;
  link?: string;
  flags: string[];
  ifalias?: string;
  address?: string;
  mtu: number;
  group: string;
  linkinfo?: { info_kind?: string; info_data?: { mode?: unknown } };
}

async function ipJson<T>(args: string[]): Promise<T[]> {
  const text = await run('ip', ['-j', ...args], { retryOn: /Dump was interrupted/ });
  return text.trim() === '' ? [] : (JSON.parse(text) as T[]);
}

export async function listLinks(): Promise<Link[]> {
  const links = await ipJson<IpLink>(['-d', 'link', 'show']);
  return links
    .filter((l) => l.ifname !== undefined)
    .map((l) => ({
      name: l.ifname as string,
      index: l.ifindex,
      kind: l.linkinfo?.info_kind ?? '',
      master: l.master ?? null,
      parent: l.link ?? null,
      mode: l.linkinfo?.info_kind === 'macvlan' ? String(l.linkinfo.info_data?.mode) : '',
      up: l.flags.includes('UP'),
      allMulticast: l.flags.includes('ALLMULTI'),
      promiscuous: l.flags.includes('PROMISC'),
      alias: l.ifalias ?? '',
      mac: l.address ?? '',
      mtu: l.mtu,
      group: l.group,
    }));
}

/** IPv4 addresses by interface name, as `a.b.c.d/len`. */
export async function listAddresses(): Promise<Map<string, string[]>> {
  const found = await ipJson<{ ifname?: string; addr_info?: { family: string; local: string; prefixlen: number }[] }>(['-4', 'addr', 'show']);
  return new Map(
    found
      .filter((l) => l.ifname !== undefined)
      .map((l) => [l.ifname as string, (l.addr_info ?? []).filter((a) => a.family === 'inet').map((a) => `${a.local}/${a.prefixlen}`)]),
  );
}

export interface Route extends SubnetLike {
  dev: string;
  isDefault: boolean;
}

/** IPv4 routes of the main table. */
export async function listRoutes(): Promise<Route[]> {
  const routes = await ipJson<{ dst: string; dev?: string }>(['-4', 'route', 'show', 'table', 'main']);
  return routes.flatMap((r): Route[] => {
    if (r.dev === undefined) return [];
    if (r.dst === 'default') return [{ base: 0, prefix: 0, dev: r.dev, isDefault: true }];
    const [address, length] = r.dst.split('/');
    const base = parseIpv4(address as string);
    return base === null ? [] : [{ base, prefix: length === undefined ? 32 : Number(length), dev: r.dev, isDefault: false }];
  });
}

/** Runs `ip` commands in one process. Stops at the first that fails, and throws its error. */
export async function ipBatch(lines: readonly string[]): Promise<void> {
  if (lines.length > 0) await run('ip', ['-batch', '-'], { input: `${lines.join('\n')}\n` });
}
