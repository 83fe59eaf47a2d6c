/**
 * Which of the host's interfaces VMs can be bridged to (B17, B18), from sysfs alone.
 *
 * Theory of operation: Ethernet by its type, with a device behind it: a card on PCI, USB or another bus. A bridge lends
 * itself, and so does one that the interface is in. Bonds, teams and VLANs are as good as what they are made of.
 * Wireless cards are none, as access points drop frames of other stations. Limits: whether a cloud's or hypervisor's
 * network drops foreign MAC addresses cannot be seen; `foreignMacDoubt` goes by the driver.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';

const SYS = '/sys/class/net';
/** Where the files of interfaces are, for a process that may open few. */
export const INTERFACE_FOLDERS = [SYS, '/sys/devices'];

/** The kernel's number of an interface; null where there is none. */
export function interfaceIndex(name: string): number | null {
  try {
    return Number(readFileSync(`${SYS}/${name}/ifindex`, 'utf8'));
  } catch {
    return null; // no such interface
  }
}

/** `bridge`: the bridge to plug taps into, or null where the interface is in none. */
export type InterfaceKind = { usable: true; bridge: string | null } | { usable: false; why: string };

/** What is known of one interface, by the files of its folder in sysfs. */
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
      return ''; // sysfs has a file only where it applies, and its carrier cannot be read while the interface is down
    }
  }

  target(file: string): string {
    try {
      return basename(readlinkSync(`${this.#path}/${file}`));
    } catch {
      return ''; // there is no such link
    }
  }

  /** Interfaces that this one is made of. */
  lower(): string[] {
    try {
      return readdirSync(this.#path).flatMap((f) => (f.startsWith('lower_') ? [f.slice(6)] : []));
    } catch {
      return []; // it has just gone, as a container's interface does
    }
  }

  devType(): string {
    return /^DEVTYPE=(.*)$/m.exec(this.text('uevent'))?.[1] ?? '';
  }
}

/** What an interface is, for bridge type. */
export function classifyInterface(name: string, sys = SYS): InterfaceKind {
  const i = new Interface(name, sys);
  const refuse = (why: string): InterfaceKind => ({ usable: false, why });
  if (!i.has('type')) return refuse('does not exist');
  const type = Number(i.text('type'));
  if (type === 772) return refuse('is the loopback');
  if (type !== 1) return refuse('is no Ethernet interface');
  const devType = i.devType();
  if (i.has('wireless') || i.has('phy80211') || devType === 'wlan') return refuse('is wireless; access points drop frames of other stations');
  if (devType === 'wwan') return refuse('is a mobile modem');
  if (i.has('tun_flags')) return refuse('is a virtual tunnel');
  if (i.has('bridge')) return { usable: true, bridge: name };
  if (i.has('brport')) return { usable: true, bridge: i.target('brport/bridge') };
  const master = i.target('master');
  if (master) return refuse(`belongs to ${master}; bridge to that`);
  if (i.has('device') || process.env['ANKA_ALLOW_VIRTUAL_UPLINK']) return { usable: true, bridge: null };
  const lower = i.lower();
  if (i.has('bonding') || devType === 'bond' || devType === 'vlan' || (lower.length > 0 && devType !== 'macvlan')) {
    // a bond's members belong to it, so it is their own kind that counts
    const wired = lower.filter((l) => {
      const part = new Interface(l, sys);
      return part.has('device') && !part.has('phy80211') && !part.has('wireless');
    });
    if (lower.length > 0 && wired.length === lower.length) return { usable: true, bridge: null };
  }
  return refuse('is virtual, no Ethernet card');
}

/**
 * Names of the interfaces that bridge type can use, those of ours left out; in the order in which the kernel found
 * them.
 */
export function usableInterfaces(sys = SYS): string[] {
  const index = (name: string): number => Number(new Interface(name, sys).text('ifindex'));
  return readdirSync(sys)
    .filter((n) => !n.startsWith('anka') && classifyInterface(n, sys).usable)
    .sort((a, b) => index(a) - index(b));
}

/** Whether a link is there. */
export function hasCarrier(name: string, sys = SYS): boolean {
  return new Interface(name, sys).text('carrier') === '1';
}

/**
 * The automatic choice: the interface of the first default route if it is Ethernet, else the first card with a link;
 * empty when there is none.
 */
export function defaultUplink(defaultRoutes: readonly string[], sys = SYS): string {
  const routed = defaultRoutes.find((d) => classifyInterface(d, sys).usable);
  if (routed !== undefined) return routed;
  // a bridge with nothing but containers in it has a link, too, so here only cards count
  return usableInterfaces(sys).find((n) => hasCarrier(n, sys) && !new Interface(n, sys).has('bridge')) ?? '';
}

/** Drivers of networks that deliver only to addresses that they gave out, unless set otherwise there. */
const DOUBTFUL_DRIVERS: Record<string, string> = {
  ena: 'Amazon EC2 delivers nothing to addresses that it has not given out',
  gve: 'Google Cloud delivers nothing to addresses that it has not given out',
  hv_netvsc: 'Hyper-V and Azure drop foreign MAC addresses, unless "MAC address spoofing" is enabled for this machine',
  vmxnet3: 'VMware drops foreign MAC addresses, unless the port group allows forged transmits and promiscuous mode',
  ...Object.fromEntries(
    ['iavf', 'i40evf', 'ixgbevf', 'igbvf'].map((d) => [d, 'a virtual function drops foreign MAC addresses, unless its host has it trusted']),
  ),
};
const CLOUD_VENDORS = /Google|Amazon|Microsoft|DigitalOcean|Hetzner|OpenStack|Alibaba|Oracle|Vultr|Linode|Scaleway/i;

/** Why frames of VMs may not pass beyond this interface; null when nothing speaks for it. */
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
    return null; // a machine without DMI, which clouds have
  }
  return CLOUD_VENDORS.test(vendor) ? `${name}: networks of ${vendor} usually deliver nothing to addresses that they have not given out` : null;
}
