/**
 * The host's interfaces that VMs can be bridged to (B17, B18), from sysfs.
 *
 * Theory of operation: an interface is usable if its type is Ethernet and it has a device: a card on PCI, USB or
 * another bus. So is a container's card, a veth with its other end in another network namespace. sysfs does not show
 * that, so callers pass their names (`cards`, from links.ts). On a host with a card of its own, such a veth leads into
 * a container of that host: it is used if it is asked for, but not proposed. A bridge is usable, and so is an interface
 * in one, by that bridge. Bonds, teams and VLANs are usable if all their lower interfaces are. Wireless cards are not,
 * as access points drop frames of other stations.
 *
 * Limits: whether the network of a cloud or hypervisor drops foreign MAC addresses is guessed by the driver
 * (`foreignMacDoubt`).
 */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { AnkaError } from '../lib/errors.ts';

const SYS = '/sys/class/net';
/** Directories of the interfaces' files, for a process with restricted file access. */
export const INTERFACE_DIRECTORIES = [SYS, '/sys/devices'];

/** Interface index; null if the interface does not exist. */
export function interfaceIndex(name: string): number | null {
  try {
    return Number(readFileSync(`${SYS}/${name}/ifindex`, 'utf8'));
  } catch {
    return null;
  }
}

/** Interface index. Throws if the interface does not exist. */
export function demandInterface(name: string): number {
  const index = interfaceIndex(name);
  if (index === null) throw new AnkaError('network', `interface ${name} does not exist`);
  return index;
}

/** `bridge`: the bridge that taps are added to; null if the interface is in none. */
export type InterfaceKind = { usable: true; bridge: string | null } | { usable: false; why: string };

/** The files of one interface in sysfs. */
class Interface {
  readonly #path: string;

  constructor(name: string, sys: string) {
    this.#path = `${sys}/${name}`;
  }

  has(file: string): boolean {
    return existsSync(`${this.#path}/${file}`);
  }

  text(file: string): string {
    try {
      return readFileSync(`${this.#path}/${file}`, 'utf8').trim();
    } catch {
      return ''; // the file does not apply to this interface, or it is `carrier` of an interface that is down
    }
  }

  target(file: string): string {
    try {
      return basename(readlinkSync(`${this.#path}/${file}`));
    } catch {
      return ''; // no such link
    }
  }

  /** Interfaces below this one. */
  lower(): string[] {
    try {
      return readdirSync(this.#path).flatMap((f) => (f.startsWith('lower_') ? [f.slice(6)] : []));
    } catch {
      return []; // removed meanwhile, as a container's interface may be
    }
  }

  devType(): string {
    return /^DEVTYPE=(.*)$/m.exec(this.text('uevent'))?.[1] ?? '';
  }
}

/** Names of interfaces that are the network cards of containers. */
type Cards = ReadonlySet<string>;

/** Whether an interface can be used for type bridge, and why not. */
export function classifyInterface(name: string, cards: Cards, sys = SYS): InterfaceKind {
  const i = new Interface(name, sys);
  const refuse = (why: string): InterfaceKind => ({ usable: false, why });
  if (!i.has('type')) return refuse('does not exist');
  const type = Number(i.text('type'));
  if (type === 772) return refuse('is the loopback interface');
  if (type !== 1) return refuse('is not an Ethernet interface');
  const devType = i.devType();
  if (i.has('wireless') || i.has('phy80211') || devType === 'wlan') return refuse('is wireless; access points drop frames of other stations');
  if (devType === 'wwan') return refuse('is a mobile modem');
  if (i.has('tun_flags')) return refuse('is a virtual tunnel');
  if (i.has('bridge')) return { usable: true, bridge: name };
  if (i.has('brport')) return { usable: true, bridge: i.target('brport/bridge') };
  const master = i.target('master');
  if (master) return refuse(`belongs to ${master}; bridge to ${master}`);
  if (i.has('device') || cards.has(name)) return { usable: true, bridge: null };
  const lower = i.lower();
  if (i.has('bonding') || devType === 'bond' || devType === 'vlan' || (lower.length > 0 && devType !== 'macvlan')) {
    // members of a bond would be refused as such, so only their type is checked
    const wired = lower.filter((l) => {
      const part = new Interface(l, sys);
      return part.has('device') && !part.has('phy80211') && !part.has('wireless');
    });
    if (lower.length > 0 && wired.length === lower.length) return { usable: true, bridge: null };
  }
  return refuse('is virtual, not an Ethernet card');
}

/**
 * Names of the interfaces that type bridge can use, without our own, in the order of their index. Containers' cards are
 * among them only if there is no other card, as in a container.
 */
export function usableInterfaces(cards: Cards, sys = SYS): string[] {
  const index = (name: string): number => Number(new Interface(name, sys).text('ifindex'));
  const names = readdirSync(sys).filter((n) => !n.startsWith('anka'));
  const proposed: Cards = names.some((n) => new Interface(n, sys).has('device')) ? new Set() : cards;
  return names.filter((n) => classifyInterface(n, proposed, sys).usable).sort((a, b) => index(a) - index(b));
}

/** Whether the link is up. */
export function hasCarrier(name: string, sys = SYS): boolean {
  return new Interface(name, sys).text('carrier') === '1';
}

/**
 * The automatic choice: the interface of the first default route if it is usable, else the first card with a link;
 * empty if there is none.
 */
export function defaultUplink(defaultRoutes: readonly string[], cards: Cards, sys = SYS): string {
  const routed = defaultRoutes.find((d) => classifyInterface(d, cards, sys).usable);
  if (routed !== undefined) return routed;
  // a bridge with only containers in it has a link, too, so bridges do not count here
  return usableInterfaces(cards, sys).find((n) => hasCarrier(n, sys) && !new Interface(n, sys).has('bridge')) ?? '';
}

/** Drivers of networks that by default deliver only to MAC addresses that they assigned. */
const DOUBTFUL_DRIVERS: Record<string, string> = {
  ena: 'Amazon EC2 drops frames to MAC addresses that it has not assigned',
  gve: 'Google Cloud drops frames to MAC addresses that it has not assigned',
  hv_netvsc: 'Hyper-V and Azure drop foreign MAC addresses, unless "MAC address spoofing" is enabled for this machine',
  vmxnet3: 'VMware drops foreign MAC addresses, unless the port group allows forged transmits and promiscuous mode',
  ...Object.fromEntries(['iavf', 'i40evf', 'ixgbevf', 'igbvf'].map((d) => [d, 'a virtual function drops foreign MAC addresses, unless its host trusts it'])),
};
const CLOUD_VENDORS = /Google|Amazon|Microsoft|DigitalOcean|Hetzner|OpenStack|Alibaba|Oracle|Vultr|Linode|Scaleway/i;

/** Why the network may drop frames of VMs bridged to this interface; null without indication. */
export function foreignMacDoubt(name: string, sys = SYS, vendorFile = '/sys/class/dmi/id/sys_vendor'): string | null {
  const i = new Interface(name, sys);
  const driver = i.target('device/driver');
  const known = DOUBTFUL_DRIVERS[driver] ?? (i.has('device/physfn') ? DOUBTFUL_DRIVERS['iavf'] : undefined);
  if (known !== undefined) return `${name} (driver ${driver}): ${known}`;
  if (driver !== 'virtio_net' && driver !== 'vif') return null;
  let vendor = '';
  try {
    vendor = readFileSync(vendorFile, 'utf8').trim();
  } catch {
    return null; // no DMI, so no cloud
  }
  return CLOUD_VENDORS.test(vendor) ? `${name}: networks of ${vendor} usually drop frames to MAC addresses that they have not assigned` : null;
}
