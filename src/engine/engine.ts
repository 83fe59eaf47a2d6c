/**
 * The interface of an engine, which moves the packets.
 *
 * The interface is declarative. The daemon computes the whole `DesiredState` and passes it to `apply`. The engine
 * compares it with what it observes and changes only what differs, object by object, removals before additions. An
 * object that fails, fails alone and is reported. Both engines take the same desired state and report the same observed
 * state.
 *
 * Numbers: an IPv4 address is an unsigned 32-bit number in host order (192.168.64.1 = 0xc0a84001); a MAC is a number
 * below 2^48 (56:45:45:00:00:01 = 0x564545000001). They are strings only in the API and on the screen. An IPv6
 * address is its canonical text.
 */
import type { HeldSource } from '../net/addresses/card-addresses.ts';
import type { Explanation } from '../net/explain/explanation.ts';
import type { Packet } from '../net/explain/packet.ts';
import type { IpAddress } from '../wire/ip-address.ts';
import type { CapturedFrame } from '../wire/pcapng.ts';

/** A subnet: network address (host order) and prefix length, 8–29. The gateway is `base + 1`. */
export interface Subnet {
  base: number;
  prefix: number;
}

/** The type of network that a NIC is attached to. */
export type NetworkType = 'shared' | 'host' | 'bridge' | 'disconnected';

/** A network with our gateway. Its name is its type. */
export interface DesiredNetwork {
  name: 'shared' | 'host';
  subnet: Subnet;
}

/** One forwarding rule; its host port is chosen (never 0). */
export interface DesiredRule {
  name: string;
  protocol: 'tcp' | 'udp';
  /** Address of the host to listen on; 0 = every IPv4 address, `::` = every IPv6 address. */
  hostIp: IpAddress;
  hostPort: number;
  guestPort: number;
}

/** The NIC of a VM that runs, starts, or is suspended and keeps its address. */
export interface DesiredNic {
  /** The VM's UUID: the key of everything that belongs to this NIC. */
  id: string;
  /** The VM's name: its DNS name is NAME.anka.internal. */
  vmName: string;
  type: NetworkType;
  /** bridge: the host's interface, already chosen by B18. */
  bridge?: string;
  /** bridge: 802.1Q VLAN, 1–4094. */
  vlan?: number;
  /** MAC address that the network sees. */
  outsideMac: number;
  /** MAC address that the guest sees: that of `--mac`, else `outsideMac`. */
  insideMac: number;
  /** Bytes of an IP packet, 576–65520, as advertised to the guest when it started. NICs of one network may differ. */
  mtu: number;
  /** DHCP reservation (`--ip`). */
  reservedIp?: number;
  /** `--no-local`: part from the other VMs and from the host. */
  isolated: boolean;
  /** Text of the packet filter (net/filter), checked; absent = none. */
  filter?: string;
  /** User id of the process that will open the NIC's backend. */
  ownerUid: number;
  /** Pairs of queues of the guest's card, 1–64. The user engine has one. */
  queues: number;
  /** The host's kernel moves the frames between card and tap (vhost-net), instead of QEMU. Kernel engine. */
  vhost: boolean;
  rules: DesiredRule[];
}

/** How NICs are bridged to an interface without a bridge: the best that works, eBPF at tc, or a macvlan for each. */
export type BridgeMethod = 'auto' | 'ebpf' | 'macvlan';

/** Everything that an engine has to bring about. */
export interface DesiredState {
  networks: DesiredNetwork[];
  nics: DesiredNic[];
  /** Overrides the host's resolvers when not empty: addresses as text. */
  dnsServers: string[];
  /** Guests of the shared network get answers from the host's hosts file; yes when absent. */
  dnsHosts?: boolean;
  /** `auto` when absent. */
  bridgeMethod?: BridgeMethod;
  /** Guests may reach the metadata service of the host's cloud; they may not when absent. */
  metadata?: boolean;
}

/** A fault of one object of the desired state, or what failed while it was applied. */
export interface EngineProblem {
  /** `network:<name>`, `nic:<id>`, `link:<interface>`, `service` or `host` */
  object: string;
  /** One sentence for the user. */
  message: string;
}

/** Where the address of a NIC comes from. */
export type AddressSource = 'lease' | 'static' | 'none';

/** One of a NIC's addresses. */
export interface ObservedAddress {
  ip: number;
  source: HeldSource;
  /** Milliseconds since the NIC has it, as far as is known, and since its guest last used it in ARP; null = not yet. */
  age: number;
  heard: number | null;
}

/** One NIC as observed. */
export interface ObservedNic {
  id: string;
  /** The guest's main address now (host order), or null while it has none. */
  ip: number | null;
  source: AddressSource;
  /** All its addresses, the main one first. */
  addresses: ObservedAddress[];
  /** End of the lease, milliseconds since 1970, for display; null for static or none. */
  leaseExpires: number | null;
  /** When the guest last sent DHCP DISCOVER or REQUEST, by `monotonicMs` (lib/clock.ts); null = never. */
  lastDhcp: number | null;
  /** Host-side interface or socket that carries the NIC's frames. */
  backend: string;
  /** True when the NIC is attached to its network and all its rules are in force. */
  healthy: boolean;
  /**
   * No process has opened the backend: if the VM runs, another program has removed the one that its QEMU had. Absent
   * where the engine connects to QEMU.
   */
  isUnused?: boolean;
  /** What does not work the way the card is plugged in, in one sentence; absent where all does. */
  limit?: string;
  /** Rules in force / not in force with the reason. */
  rules: { name: string; active: boolean; reason: string }[];
}

/** One network as observed. */
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

/** Counters of one NIC, since it was attached. */
export interface NicStats {
  id: string;
  rxPackets: number;
  rxBytes: number;
  txPackets: number;
  txBytes: number;
  drops: Record<string, number>;
}

/** What QEMU needs to connect the NIC to the engine. */
export type NicBackend =
  /**
   * Open descriptors of a tap, one for each pair of queues, and as many of /dev/vhost-net or none. QEMU inherits them;
   * then `release` closes them here.
   */
  | { kind: 'tap'; fds: readonly number[]; vhostFds: readonly number[]; release(): void }
  /**
   * Path of the unix stream socket on which QEMU listens; the engine connects (`-netdev stream,server=on`), once
   * `listening` has taken the socket. It throws if QEMU does not listen there.
   */
  | { kind: 'stream'; path: string; listening(): Promise<void>; release(): void };

/** A line of `anka doctor`. */
export interface DoctorFinding {
  /** Stable id, e.g. `firewall.docker`, `subnet.clash`, `rights.tun`. */
  id: string;
  level: 'ok' | 'warning' | 'error';
  message: string;
  /** The command or step that fixes it; empty for `ok`. */
  remedy: string;
}

/** A helper process of an engine, since this daemon has known it. */
export interface HelperHealth {
  name: 'service' | 'shared' | 'host';
  /** Its name in messages. */
  title: string;
  log: string;
  /** Exceptions that nothing handled; it logged and survived them. */
  unexpectedErrors: number;
  /** Times that it was killed because it was hung. */
  hangs: number;
}

/** As the guest sees frames, or as the network does, after the translation of the MAC address. */
export type CaptureSide = 'inside' | 'outside';

/** A capture of one NIC's frames, until `close`. */
export interface Capture {
  /** What is captured, for the user. */
  description: string;
  /** Most bytes kept of a frame. */
  snapLength: number;
  /** Waits for frames; null when the capture was closed or the NIC was detached. */
  next(): Promise<CapturedFrame[] | null>;
  /** Frames so far; `received` includes dropped ones. Frames are dropped when `next` is not called often enough. */
  counts(): { received: number; dropped: number };
  close(): void;
}

/** An engine. Every method is safe to call again; callers keep no state of it. */
export interface Engine {
  readonly name: 'kernel' | 'user';
  /** What this engine cannot do of it; changes nothing. Empty = valid. */
  validate(desired: DesiredState): Promise<EngineProblem[]>;
  /** Brings it about. Returns what failed; everything else is in force when it resolves. */
  apply(desired: DesiredState): Promise<EngineProblem[]>;
  observe(): Promise<ObservedState>;
  stats(): Promise<NicStats[]>;
  /** Opens the backend of a NIC that was applied before. */
  openNic(id: string): Promise<NicBackend>;
  /**
   * Connects the running QEMU of a NIC whose backend was removed (`isUnused`) to the backend that exists now.
   * `headerBytes`: what QEMU puts before each frame. Throws `network` if it cannot be done.
   */
  reconnectNic?(id: string, pid: number, headerBytes: number): Promise<void>;
  /** Starts a capture of a NIC that was applied before (B93). `filter` is in tcpdump's syntax, or empty. */
  capture?(id: string, side: CaptureSide, filter: string): Promise<Capture>;
  /** Explains what happens to a packet from or to a NIC that was applied before (B93). */
  explain(id: string, packet: Packet): Promise<Explanation>;
  /**
   * Unix socket for streams to ports of that NIC's guest (user/process/config.ts); null while the NIC is on no network
   * of ours. Absent where the host reaches guests by their addresses.
   */
  streamSocket?(id: string): string | null;
  /** Gives the lease of a deleted VM back (B23). */
  forgetNic(id: string): Promise<void>;
  /** Calls back, debounced, when the observed state may have changed. Returns the unsubscribe function. */
  watch(onChange: () => void): () => void;
  doctor(): Promise<DoctorFinding[]>;
  helpers(): HelperHealth[];
  /** Removes all objects of anka from the host; VMs lose their network. Returns what was removed, one line each. */
  reset(): Promise<string[]>;
  /** To be called when the daemon exits: networks, services and flows stay as they are. */
  close(): Promise<void>;
}
