/**
 * The settings (B70): key, default, check and description. The daemon checks values with them, the CLI completes keys.
 */
import { isIP } from 'node:net';
import { AnkaError } from './errors.ts';

export interface Setting {
  key: string;
  default: string;
  description: string;
  /** Returns the value's normal form. Throws an Error that says what is accepted. */
  check(value: string): string;
}

function integer(low: number, high: number): (value: string) => string {
  return (value) => {
    const n = /^\d{1,9}$/.test(value.trim()) ? Number(value) : Number.NaN;
    if (!(n >= low && n <= high)) throw new Error(`must be a whole number from ${low} to ${high}`);
    return String(n);
  };
}

function oneOf(...values: string[]): (value: string) => string {
  return (value) => {
    if (!values.includes(value)) throw new Error(`must be one of ${values.join(', ')}`);
    return value;
  };
}

function subnet(value: string): string {
  const m = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(value.trim());
  const octets = m ? m.slice(1, 5).map(Number) : [];
  const prefix = m ? Number(m[5]) : 0;
  if (!m || octets.some((o) => o > 255) || prefix < 16 || prefix > 29) throw new Error('must be a subnet such as 192.168.80.0/24, with a prefix from 16 to 29');
  const base = octets.reduce((a, o) => a * 256 + o, 0);
  if (base % 2 ** (32 - prefix) !== 0) throw new Error(`must begin at a network address of /${prefix}`);
  const first = octets[0] as number;
  const isLinkLocal = first === 169 && octets[1] === 254;
  if (first === 0 || first === 127 || first >= 224 || isLinkLocal)
    throw new Error('must be a unicast subnet outside 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16 and 224.0.0.0/3');
  return `${octets.join('.')}/${prefix}`;
}

function interfaceName(value: string): string {
  const name = value.trim();
  if (name !== '' && !isInterfaceName(name)) throw new Error('must be an interface name: at most 15 characters, without blanks, slashes and colons');
  return name;
}

function addresses(value: string): string {
  const list = value
    .split(',')
    .map((a) => a.trim())
    .filter((a) => a !== '');
  for (const a of list) if (isIP(a) === 0) throw new Error(`'${a}' is not an IP address; use the form 1.1.1.1,2620:fe::fe`);
  return list.join(',');
}

/** Whether Linux accepts this interface name. */
export function isInterfaceName(name: string): boolean {
  return /^[^\s/:]{1,15}$/.test(name) && name !== '.' && name !== '..';
}

/** In the order of `anka config --list`. */
export const SETTINGS: readonly Setting[] = [
  {
    key: 'bridge_name',
    default: '',
    description: 'interface for VMs of type bridge that name none; empty = the default route or the first Ethernet link',
    check: interfaceName,
  },
  {
    key: 'bridge_method',
    default: 'auto',
    description: 'how VMs are bridged to an interface that is not in a bridge: auto, ebpf or macvlan',
    check: oneOf('auto', 'ebpf', 'macvlan'),
  },
  { key: 'engine', default: 'auto', description: 'network engine: auto, kernel or user', check: oneOf('auto', 'kernel', 'user') },
  { key: 'shared_subnet', default: '192.168.64.0/24', description: 'subnet of the shared network', check: subnet },
  { key: 'host_subnet', default: '192.168.128.0/24', description: 'subnet of the host network', check: subnet },
  { key: 'portfwd_base', default: '10000', description: 'lowest host port assigned automatically', check: integer(1, 65535) },
  {
    key: 'permanent_mac_prefix',
    default: '56:45:45',
    description: 'first three bytes of outside MAC addresses',
    check: (value) => {
      const v = value.trim().toLowerCase();
      if (!/^[0-9a-f]{2}:[0-9a-f]{2}:[0-9a-f]{2}$/.test(v)) throw new Error('must be three bytes such as 56:45:45');
      if (Number.parseInt(v.slice(0, 2), 16) & 1) throw new Error('must not be a multicast prefix (first byte odd)');
      return v;
    },
  },
  { key: 'mtu', default: '1500', description: 'MTU of the shared and host networks, bytes', check: integer(576, 65520) },
  { key: 'dns_servers', default: '', description: "resolvers to forward DNS queries to instead of the host's, comma separated", check: addresses },
  { key: 'dns_hosts', default: 'on', description: "answer the shared network's guests from the host's /etc/hosts: on or off", check: oneOf('on', 'off') },
  {
    key: 'metadata',
    default: 'deny',
    description: "whether VMs reach the metadata service of the host's cloud (169.254.169.254): deny or allow",
    check: oneOf('deny', 'allow'),
  },
  {
    key: 'net_filter',
    default: '',
    description: "packet filter of VMs that have none: a file with its rules, '-' for standard input, or off",
    check: (value) => value,
  },
  { key: 'stop_timeout', default: '60', description: 'seconds to wait for a guest to power off', check: integer(1, 3600) },
];

/** Throws `unknownSetting` with the nearest key. */
export function findSetting(key: string): Setting {
  const found = SETTINGS.find((s) => s.key === key);
  if (found) return found;
  const near = nearest(
    key,
    SETTINGS.map((s) => s.key),
  );
  throw new AnkaError('unknownSetting', `unknown setting '${key}'${near ? `; did you mean '${near}'?` : ''} ('anka config -l' lists all settings)`);
}

/** The normal form of a value. Throws `badValue` with key, value and what is accepted. */
export function checkSetting(key: string, value: string): string {
  try {
    return findSetting(key).check(value);
  } catch (cause) {
    if (cause instanceof AnkaError) throw cause;
    throw new AnkaError('badValue', `${key} = '${value}': ${(cause as Error).message}`);
  }
}

/** A candidate that begins with the word, else the nearest by edit distance if it is close enough for a typo. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  const longer = word.replace(/^-+/, '').length >= 2 ? candidates.find((c) => c.startsWith(word)) : undefined;
  if (longer !== undefined) return longer;
  for (const c of candidates) {
    const d = editDistance(word, c);
    if (d < least) {
      least = d;
      best = c;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min((row[j] as number) + 1, (next[j - 1] as number) + 1, (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length] as number;
}
