/**
 * The API between `anka` and `ankad`, as plain types (the daemon's zod schemas in schema.ts are checked against them at
 * compile time).
 *
 * HTTP/1.1 + JSON on a unix socket. Long work answers with `application/x-ndjson` when the client accepts it: any
 * number of `{"progress": {step, fraction?}}` lines and one last `{"result": …}` or `{"error": ErrorBody}` line. An
 * error answer is `{"error": ErrorBody}` with a 4xx/5xx status. The header `x-anka-settings` carries the `ANKA_*`
 * overrides of one call as a JSON object (B71).
 *
 * | method and path | body | answer | | --- | --- | --- | | GET /v1/status | | DaemonStatus | | POST /v1/shutdown | |
 * {} (VMs go on) | | GET /v1/events | | ndjson of DaemonEvent, until closed | | GET /v1/openapi.json, GET /metrics | |
 * | | GET /v1/vms | | VmListEntry[] | | POST /v1/vms | CreateRequest | {uuid} · long | | GET /v1/vms/:ref | | VmShow |
 * | PATCH /v1/vms/:ref | ModifyRequest | {} | | GET /v1/vms/:ref/config | | VmDescribe | | GET /v1/vms/:ref/guest | |
 * GuestAccess (how to ssh in, where the console is) | | POST /v1/vms/:ref/start | {} | VmShow · long | | POST
 * /v1/vms/:ref/stop | {force} | {} · long | | POST /v1/vms/:ref/suspend, /reboot | {} / {force} | {} · long | | POST
 * /v1/vms/:ref/clone | {name} | {uuid} · long | | POST /v1/vms/:ref/wait | {until: 'ip'\|'network', timeout: seconds} |
 * VmShow · long | | DELETE /v1/vms/:ref | | {} · long | | POST /v1/vms/:ref/network-card | NetworkCardRequest |
 * {message} | | PUT /v1/vms/:ref/network-card | NetworkCardRequest | {message} · long | | DELETE
 * /v1/vms/:ref/network-card | | {} | | POST /v1/vms/:ref/port-forwarding | RuleRequest | {host_port} | | DELETE
 * /v1/vms/:ref/port-forwarding/:name | | {} | | GET /v1/config | | SettingValue[] | | GET/PUT/DELETE /v1/config/:key |
 * {value} | SettingValue | | GET /v1/networks | | NetworkStatus[] | | POST /v1/networks/reset | | {removed: string[]} |
 * | GET /v1/doctor | | DoctorFinding[] | | GET /v1/vms/:ref/capture?side=inside\|outside&filter=… | | pcapng, until it
 * is ended; its id in the header `x-anka-capture` | | DELETE /v1/captures/:id | | CaptureEnd, also of one that has
 * ended with its card; the statistics block follows in the stream | | POST /v1/base-image | {} | {} · long |
 */

export type VmStatus = 'running' | 'stopped' | 'suspended' | 'failed';
export type CardType = 'shared' | 'host' | 'bridge' | 'disconnected';
export type Controller = 'virtio-net' | 'e1000';

export type CaptureSide = 'inside' | 'outside';

/** What a capture caught. */
export interface CaptureEnd {
  frames: number;
  dropped: number;
}

export interface Progress {
  step: string;
  /** 0–1, absent while unknown. */
  fraction?: number;
}

export interface DaemonStatus {
  pid: number;
  version: string;
  /** Seconds. */
  uptime: number;
  engine: 'kernel' | 'user';
  socket: string;
  log: string;
  vms: number;
  running: number;
}

export interface DaemonEvent {
  /** Milliseconds since 1970. */
  time: number;
  /**
   * `vm.created`, `vm.status`, `vm.address`, `vm.deleted`, `rule.added`, `rule.removed`, `rule.moved`,
   * `network.problem`, `config.changed` …
   */
  type: string;
  vm?: { uuid: string; name: string };
  message: string;
}

export interface VmListEntry {
  uuid: string;
  name: string;
  creation_date: string;
  status: VmStatus;
  ip?: string;
}

export interface ShownRule {
  guest_port: number;
  host_port: number;
  protocol: 'tcp' | 'udp';
  name: string;
  host_ip: string;
}

/** Body of `show` (B82). `ip` and `mac` are absent while there is none. */
export interface VmShow {
  uuid: string;
  name: string;
  creation_date: string;
  cpu_cores: number;
  /** e.g. `4G`. */
  ram: string;
  /** Virtual size, bytes. */
  hard_drive: number;
  /** Bytes that the disk takes on the host. */
  image_size: number;
  status: VmStatus;
  /** Why it failed, or why its network is not healthy; absent when all is well. */
  message?: string;
  ip?: string;
  mac?: string;
  /** Absent when the VM has no card. */
  network?: {
    type: CardType;
    bridge?: string;
    ip?: string;
    mac?: string;
    inside_mac?: string;
    address_source?: 'lease' | 'static';
    healthy: boolean;
    /** What does not work the way the card is plugged in. */
    limit?: string;
  };
  port_forwarding: ShownRule[];
  /** Rules kept but not in force: name and why. */
  inactive_rules?: { name: string; reason: string }[];
}

/** Body of `describe` (B82): the stored configuration. 0 means automatic. */
export interface VmDescribe {
  uuid: string;
  name: string;
  creation_date: string;
  cpu: { cores: number };
  ram: string;
  hard_drives: { file: string; size: number }[];
  network_cards: {
    index: number;
    mode: CardType;
    /** The inside MAC given by `--mac`, or "". */
    mac_address: string;
    type: Controller;
    bridge?: string;
    vlan?: number;
    ip?: string;
    /** The option's sense: `false` = isolated. */
    local: boolean;
    port_forwarding_rules: { rule_name: string; guest_port: number; host_port: number; protocol: 'tcp' | 'udp'; host_ip: string }[];
  }[];
}

/** How to get into a guest. */
export interface GuestAccess {
  uuid: string;
  user: string;
  address?: string;
  port: number;
  identity_file: string;
  /** Serial console's unix socket. */
  console: string;
  /**
   * Set where the host has no way to the address (user engine): unix socket on which streams to the guest's ports
   * begin.
   */
  stream_socket?: string;
}

export interface CreateRequest {
  name: string;
  /** e.g. 4G, 512M. */
  ram_size?: string;
  cpu_count?: number;
  disk_size?: string;
  /** Path of a disk image. */
  app?: string;
}

export interface ModifyRequest {
  name?: string;
  ram_size?: string;
  cpu_count?: number;
}

export interface NetworkCardRequest {
  type?: CardType | 'bridged';
  bridge?: string;
  /** `null` = `--no-mac`. */
  mac?: string | null;
  controller?: Controller | 'anet';
  /** Isolated from other VMs and from the host: `true` = `--no-local`. */
  isolated?: boolean;
  /** `auto` removes the reservation. */
  ip?: string;
  vlan?: number | null;
}

export interface RuleRequest {
  name: string;
  guest_port: number;
  host_port?: number;
  host_ip?: string;
  protocol?: 'tcp' | 'udp';
}

export interface SettingValue {
  key: string;
  value: string;
  default: string;
  /** `default`, `stored`, `environment`. */
  source: string;
  description: string;
  /** After a change: what to know of it. */
  notice?: string;
}

/**
 * One of our networks, or an interface that running VMs are bridged to, whose name is `bridge`: its addresses are not
 * ours, hence null.
 */
export interface NetworkStatus {
  name: string;
  interface: string | null;
  subnet: string | null;
  gateway: string | null;
  healthy: boolean;
  leases: number | null;
  pool_size: number | null;
  vms: string[];
  message: string;
}

/** A packet as it is asked about; every place is ADDR, ADDR:PORT, or a VM's name in place of the address. */
export interface ExplainQuestion {
  from?: string;
  to: string;
  protocol: string;
}

/** What happens to a packet (B93). */
export interface Explanation {
  packet: string;
  verdict: 'allowed' | 'dropped' | 'refused';
  rule: string;
  reason: string;
  translated: boolean;
  steps: { at: string; does: string; rule: string }[];
  arrives: { at: string; source: string; destination: string; port: number | null }[];
}

export interface DoctorFinding {
  id: string;
  level: 'ok' | 'warning' | 'error';
  message: string;
  remedy: string;
}
