/**
 * What an engine is: the one interface behind which packets are moved.
 *
 * The interface is declarative. The daemon computes the whole `DesiredState` and hands it over with `apply`; the engine
 * compares it with what it observes and changes only what differs, object by object, removals before additions. A
 * failing object fails alone and is reported. Both engines take the same desired state and report the same observed
 * state.
 *
 * Numbers: an IPv4 address is an unsigned 32-bit number in host order (192.168.64.1 = 0xc0a84001); a MAC is a number
 * below 2^48 (56:45:45:00:00:01 = 0x564545000001). They are strings only in the API and on the screen.
 */
import type { Explanation } from '../net/explain/explanation.ts';
import type { Packet } from '../net/explain/packet.ts';
import type { CapturedFrame } from '../wire/pcapng.ts';

/** A subnet: network address (host order) and prefix length, 8–29. The gateway is `base + 1`. */
export interface Subnet {
  base: number;
  prefix: number;
}

/** The kind of network that a cable is plugged into. */
export type NetworkType = 'shared' | 'host' | 'bridge' | 'disconnected';

/** A network with a gateway of ours. Its name is its type. */
export interface DesiredNetwork {
  name: 'shared' | 'host';
  subnet: Subnet;
}

/** One forwarding rule, with its host port settled (never 0). */
export interface DesiredRule {
  name: string;
  protocol: 'tcp' | 'udp';
  /** Address of the host to listen on; 0 = every address. */
  hostIp: number;
  hostPort: number;
  guestPort: number;
}

/** One running (or starting, or suspended with its place kept) VM's card. */
export interface DesiredNic {
  /** The VM's UUID: the key of everything that belongs to this card. */
  id: string;
  /** The VM's name: its DNS name is NAME.anka.internal. */
  vmName: string;
  type: NetworkType;
  /** bridge: the host's interface, already chosen by B18. */
  bridge?: string;
  /** bridge: 802.1Q VLAN, 1–4094. */
  vlan?: number;
  /** What the network sees. */
  outsideMac: number;
  /** What the guest sees, where `--mac` was given; else equal to `outsideMac`. */
  insideMac: number;
  /**
   * Bytes of IP packet that the guest's card takes, 576–65520: as its guest was told when it started. Cards of one
   * network may differ.
   */
  mtu: number;
  /** DHCP reservation (`--ip`). */
  reservedIp?: number;
  /** `--no-local`: part from the other VMs and from the host. */
  isolated: boolean;
  /** User id of the process that will open the NIC's backend. */
  ownerUid: number;
  rules: DesiredRule[];
}

/**
 * How cards are bridged to an interface that is in no bridge: the best that works, eBPF at tc, or a macvlan for each
 * card.
 */
export type BridgeMethod = 'auto' | 'ebpf' | 'macvlan';

/** Everything an engine has to make true. */
export interface DesiredState {
  networks: DesiredNetwork[];
  nics: DesiredNic[];
  /** Overrides the host's resolvers when not empty (numbers or IPv6 text). */
  dnsServers: string[];
  /** `auto` when absent. */
  bridgeMethod?: BridgeMethod;
}

/** What is wrong with one object of the desired state, or what failed while it was applied. */
export interface EngineProblem {
  /** `network:<name>`, `nic:<id>`, `link:<interface>`, `service` or `host` */
  object: string;
  /** One sentence for the user. */
  message: string;
}

/** Where the address of a card was learned. */
export type AddressSource = 'lease' | 'static' | 'none';

/** What is seen of one card. */
export interface ObservedNic {
  id: string;
  /** The guest's address now (host order), or null while it has none. */
  ip: number | null;
  source: AddressSource;
  /** Lease end, milliseconds since 1970; null for static or none. */
  leaseExpires: number | null;
  /** When the guest last asked by DHCP (DISCOVER or REQUEST), milliseconds since 1970; null = never seen. */
  lastDhcp: number | null;
  /** Host-side interface or socket that carries the card's frames. */
  backend: string;
  /** True when the cable is plugged into the network it should be in and every rule of it is in force. */
  healthy: boolean;
  /** What does not work the way the card is plugged in, in one sentence; absent where all does. */
  limit?: string;
  /** Frames dropped, by named reason. */
  drops: Record<string, number>;
  /** Rules in force / not in force with the reason. */
  rules: { name: string; active: boolean; reason: string }[];
}

/** What is seen of one network. */
export interface ObservedNetwork {
  name: string;
  /** Host interface, where there is one. */
  interface: string | null;
  healthy: boolean;
  /** Addresses in use / in the pool. */
  leases: number;
  poolSize: number;
  message: string;
}

export interface ObservedState {
  networks: ObservedNetwork[];
  nics: ObservedNic[];
  problems: EngineProblem[];
}

/** Counters of one card, since it was plugged in. */
export interface NicStats {
  id: string;
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
  drops: Record<string, number>;
}

/** What QEMU needs in order to join the card to the engine. */
export type NicBackend =
  /** An open tap file descriptor, to be inherited by QEMU and then closed here by `release`. */
  | { kind: 'tap-fd'; fd: number; vnetHdr: boolean; release(): void }
  /** A unix stream socket path on which QEMU listens and that the engine dials (`-netdev stream,server=on`). */
  | { kind: 'stream'; path: string; release(): void };

/** A line of `anka doctor`. */
export interface DoctorFinding {
  /** Stable id, e.g. `firewall.docker`, `subnet.clash`, `rights.tun`. */
  id: string;
  level: 'ok' | 'warning' | 'error';
  message: string;
  /** The command or step that mends it; empty for `ok`. */
  remedy: string;
}

/** Before (as the guest knows it) or after (as the network knows it) the translation of the MAC address. */
export type CaptureSide = 'inside' | 'outside';

/** Frames of one card, from its beginning until `close`. */
export interface Capture {
  /** What is captured, in words. */
  description: string;
  /** Most bytes kept of a frame. */
  snapLength: number;
  /** Waits for frames, and gives some; null when the capture was closed, or the card was unplugged. */
  next(): Promise<CapturedFrame[] | null>;
  /**
   * Frames since the beginning; `received` counts dropped ones, too. Frames are dropped while nobody asks for the next.
   */
  counts(): { received: number; dropped: number };
  close(): void;
}

/** An engine. Every method is safe to call again; nothing here is remembered by callers. */
export interface Engine {
  readonly name: 'kernel' | 'user';
  /** What this engine cannot do of it, without changing anything. Empty = fine. */
  validate(desired: DesiredState): Promise<EngineProblem[]>;
  /** Makes it so. Returns what failed; everything else is in force when it resolves. */
  apply(desired: DesiredState): Promise<EngineProblem[]>;
  observe(): Promise<ObservedState>;
  stats(): Promise<NicStats[]>;
  /** Opens the backend of a card that was applied before. */
  openNic(id: string): Promise<NicBackend>;
  /**
   * Begins a capture of a card that was applied before (B93). `filter` is in tcpdump's syntax, or empty. Absent where
   * the engine cannot.
   */
  capture?(id: string, side: CaptureSide, filter: string): Promise<Capture>;
  /** What happens to a packet of, or for, a card that was applied before (B93). */
  explain(id: string, packet: Packet): Promise<Explanation>;
  /**
   * Unix socket on which a stream to a port of that card's guest can be begun (user/network-config.ts); null while the
   * card is on no network of ours. Absent where the host itself reaches guests by their addresses.
   */
  streamSocket?(id: string): string | null;
  /** Gives the lease of a deleted VM back (B23). */
  forgetNic(id: string): Promise<void>;
  /** Calls back (debounced) when observed state may have changed. Returns the unsubscribe function. */
  watch(onChange: () => void): () => void;
  doctor(): Promise<DoctorFinding[]>;
  /** Removes every object of ours from the host; VMs lose their network. Returns what was removed, one line each. */
  reset(): Promise<string[]>;
  /** Lets go (daemon ends): networks, services and flows stay as they are. */
  close(): Promise<void>;
}
