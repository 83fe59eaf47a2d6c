/**
 * The API between `anka` and `ankad`, as plain types. The daemon's zod schemas (schema.ts) are checked against them at
 * compile time.
 *
 * HTTP/1.1 with JSON over a unix socket. An error is `{"error": ErrorBody}` with a 4xx or 5xx status. A long operation
 * answers `application/x-ndjson` if the client accepts it: any number of `{"progress": {step, fraction?}}` lines, then
 * one `{"result": …}` or `{"error": ErrorBody}` line. The header `x-anka-settings` carries the `ANKA_*` overrides of
 * one request, as a JSON object (B71). Below, `…` marks long operations.
 *
 *     GET    /v1/status                                          DaemonStatus
 *     POST   /v1/shutdown                                        {}; VMs and networks keep running
 *     GET    /v1/events                                          NDJSON of DaemonEvent, until the connection closes
 *     GET    /v1/openapi.json, /metrics
 *     GET    /v1/vms                                             VmListEntry[]
 *     POST   /v1/vms                         CreateRequest       {uuid} …
 *     GET    /v1/vms/:ref                                        VmShow
 *     PATCH  /v1/vms/:ref                    ModifyRequest       {}
 *     DELETE /v1/vms/:ref                                        {} …
 *     GET    /v1/vms/:ref/config                                 VmDescribe
 *     GET    /v1/vms/:ref/guest                                  GuestAccess
 *     POST   /v1/vms/:ref/start              {}                  VmShow …
 *     POST   /v1/vms/:ref/stop, /reboot      {force?}            {} …
 *     POST   /v1/vms/:ref/suspend            {}                  {} …
 *     POST   /v1/vms/:ref/clone              {name, tag?}        {uuid} …
 *     GET    /v1/vms/:ref/tags                                   ShownTag[]
 *     POST   /v1/vms/:ref/tags               TagRequest          ShownTag …
 *     POST   /v1/vms/:ref/restore            {tag}               {} …
 *     DELETE /v1/vms/:ref/tags/:tag                              {}
 *     POST   /v1/vms/:ref/wait               {until?, timeout?}  VmShow …; until: 'ip' or 'stopped', timeout in seconds
 *     POST   /v1/vms/:ref/network-card       NetworkCardRequest  {message} …
 *     PUT    /v1/vms/:ref/network-card       NetworkCardRequest  {message} …
 *     DELETE /v1/vms/:ref/network-card                           {}
 *     POST   /v1/vms/:ref/port-forwarding    RuleRequest         {host_port}
 *     PATCH  /v1/vms/:ref/port-forwarding/:name {name}           {}
 *     DELETE /v1/vms/:ref/port-forwarding/:name                  {}
 *     GET    /v1/vms/:ref/mounts                                 ShownMount[]
 *     POST   /v1/vms/:ref/mounts             MountRequest        ShownMount …
 *     DELETE /v1/vms/:ref/mounts/:mount                          {}; its ID or its name
 *     GET    /v1/vms/:ref/explain?from=&to=&protocol=            Explanation
 *     GET    /v1/vms/:ref/capture?side=&filter=                  pcapng, until the capture ends; the header
 *                                                                x-anka-capture has its id
 *     DELETE /v1/captures/:id                                    CaptureEnd, also when the card was removed before;
 *                                                                the stream ends with the statistics block
 *     GET    /v1/config                                          SettingValue[]
 *     GET    /v1/config/:key                                     SettingValue
 *     PUT    /v1/config/:key                 {value}             SettingValue
 *     DELETE /v1/config/:key                                     SettingValue
 *     GET    /v1/networks                                        NetworkStatus[]
 *     POST   /v1/networks/reset              {}                  {removed: string[]}
 *     GET    /v1/doctor                                          DoctorFinding[]
 *     POST   /v1/base-image                  {}                  {} …
 */

export type VmStatus = 'running' | 'stopped' | 'suspended' | 'failed';
export type CardType = 'shared' | 'host' | 'bridge' | 'disconnected';
export type Controller = 'virtio-net' | 'e1000';

export type CaptureSide = 'inside' | 'outside';

/** Frames of a capture that ended: written to it, and dropped because the client read too slowly. */
export interface CaptureEnd {
  frames: number;
  dropped: number;
}

export interface Progress {
  step: string;
  /** From 0 to 1; absent when unknown. */
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
  /** Of the daemon and its helper processes; see their logs. */
  unexpected_errors: number;
}

export interface DaemonEvent {
  /** Milliseconds since 1970. */
  time: number;
  /**
   * `vm.created`, `vm.status`, `vm.address`, `vm.network` (its card was detached, or attached elsewhere), `vm.deleted`,
   * `rule.added`, `rule.removed`, `rule.moved`, `network.problem`, `config.changed` …
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
  /** The local tag that its disk was saved as, or restored from, last. */
  version?: string;
  ip?: string;
}

/** A local tag: a saved state of a VM's disk. */
export interface ShownTag {
  tag: string;
  description: string;
  /** ISO 8601. */
  created: string;
  /** Space that it takes on the host, bytes. */
  size: number;
  cpu_cores: number;
  /** e.g. `4G`. */
  ram: string;
  /** Bytes. */
  ram_size: number;
  /** Virtual size, bytes. */
  hard_drive: number;
  /** Whether the disk was saved as this tag, or restored from it, last. */
  current: boolean;
}

export interface ShownRule {
  guest_port: number;
  host_port: number;
  protocol: 'tcp' | 'udp';
  name: string;
  host_ip: string;
}

/**
 * An address of a card. `lease` and `reservation` are assigned to it by DHCP and by `--ip`. The guest has set the
 * others itself: `static` is its main address, `virtual` one that it has besides.
 */
export interface ShownAddress {
  ip: string;
  source: 'lease' | 'reservation' | 'static' | 'virtual';
  /** Seconds since the card has it, as far as is known. */
  age: number;
  /** Seconds since the guest last used it in ARP; absent before. */
  last_arp?: number;
}

/** Body of `show` (B82). `ip` and `mac` are absent while the VM has none. */
export interface VmShow {
  uuid: string;
  name: string;
  creation_date: string;
  /** When the guest last wrote to its disk. ISO 8601, UTC, whole seconds. */
  access_date: string;
  /** Local tag; absent if there is none. */
  version?: string;
  cpu_cores: number;
  /** e.g. `4G`. */
  ram: string;
  /** Bytes. */
  ram_size: number;
  /** Identifies the VM's disk. */
  image_id: string;
  /** Virtual size, bytes. */
  hard_drive: number;
  /** Space that the disk takes on the host, bytes. */
  image_size: number;
  status: VmStatus;
  /** Why the VM failed, or why its network is unhealthy; absent when all is well. */
  message?: string;
  ip?: string;
  mac?: string;
  /** Absent when the VM has no network card. */
  network?: {
    type: CardType;
    bridge?: string;
    ip?: string;
    mac?: string;
    inside_mac?: string;
    address_source?: 'lease' | 'static';
    /** All addresses of the card, the main one (`ip`) first. Absent when there is none. */
    addresses?: ShownAddress[];
    healthy: boolean;
    /** What does not work with this type of connection. */
    limit?: string;
    /** Rules of the packet filter in force, one a line: the VM's own or those of the setting `net_filter`. */
    filter?: string;
  };
  port_forwarding: ShownRule[];
  labels?: Record<string, string>;
  /** Rules that are stored but not in force, and why. */
  inactive_rules?: { name: string; reason: string }[];
}

/** Body of `describe` (B82): the stored configuration. A `host_port` of 0 is assigned automatically. */
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
    /** The custom MAC address (`--mac`), or "". */
    mac_address: string;
    type: Controller;
    bridge?: string;
    vlan?: number;
    ip?: string;
    /** The option's sense: `false` = isolated. */
    local: boolean;
    /** Rules of the VM's own packet filter, one a line. */
    net_filter?: string;
    port_forwarding_rules: { rule_name: string; guest_port: number; host_port: number; protocol: 'tcp' | 'udp'; host_ip: string }[];
  }[];
}

/** How to log in to a guest, and where its console is. */
export interface GuestAccess {
  uuid: string;
  user: string;
  address?: string;
  port: number;
  identity_file: string;
  /** Unix socket of the serial console. */
  console: string;
  /** Unix socket for streams to the guest's ports; set when the host has no route to the address (user engine). */
  stream_socket?: string;
  /** Process id of the VM's QEMU, while it runs. */
  pid?: number;
}

export interface CreateRequest {
  name: string;
  /** e.g. `4G`, `512M`. */
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
  /** e.g. `120G`; not below the present size. */
  disk_size?: string;
  /** Values by name; null deletes a label. */
  labels?: Record<string, string | null>;
}

export interface TagRequest {
  tag: string;
  description?: string;
  /** Replace a tag of this name. */
  force?: boolean;
}

export interface NetworkCardRequest {
  type?: CardType | 'bridged';
  bridge?: string;
  /** `null` = `--no-mac`. */
  mac?: string | null;
  controller?: Controller | 'anet';
  /** Isolated from other VMs and from the host: `true` = `--no-local`. */
  isolated?: boolean;
  /** Rules of the packet filter, one a line; `null` removes it. */
  filter?: string | null;
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

/** A host directory for a guest. */
export interface MountRequest {
  /** Absolute path, without links. */
  directory: string;
  /** In the guest, below /media; by default the directory's own. */
  name?: string;
  read_only?: boolean;
  /** Also after the VM has been stopped; else the VM must run. */
  persistent?: boolean;
}

export interface ShownMount {
  id: number;
  name: string;
  host_path: string;
  guest_path: string;
  read_only: boolean;
  persistent: boolean;
  /** `inactive`: the VM does not run. `connecting`: it is being mounted, or will be tried again. */
  state: 'mounted' | 'connecting' | 'inactive';
  /** Why it is not mounted, or what limits it. */
  message?: string;
}

export interface SettingValue {
  key: string;
  value: string;
  default: string;
  /** `default`, `stored`, `environment`. */
  source: string;
  description: string;
  /** Note on a change, for the user. */
  notice?: string;
}

/**
 * The network `shared` or `host`, or `bridge`: an interface that running VMs are bridged to. The latter's addresses are
 * not assigned by anka, hence null.
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

/** A packet to explain. `from` and `to` are ADDR or ADDR:PORT, where ADDR is an IP address or a VM's name. */
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
