/** What the API's routes call. The daemon implements it. */
import type {
  CaptureEnd,
  CaptureSide,
  CreateRequest,
  DaemonEvent,
  DaemonStatus,
  DoctorFinding,
  ExplainQuestion,
  Explanation,
  GuestAccess,
  ModifyRequest,
  MountRequest,
  NetworkCardRequest,
  NetworkStatus,
  RuleRequest,
  SettingValue,
  ShownMount,
  ShownTag,
  TagRequest,
  VmDescribe,
  VmListEntry,
  VmShow,
} from './types.ts';

/** Settings that the client's environment overrides for one call (B71). */
export type CallSettings = Readonly<Record<string, string>>;
export type OnProgress = (step: string, fraction?: number) => void;

/** A running capture. `bytes` are pcapng; `abort` ends it when the client has disconnected. */
export interface CaptureStream {
  id: string;
  bytes: AsyncIterable<Uint8Array>;
  abort(): void;
}

/** A place in the queue of those who log in to a guest. */
export interface LoginTurn {
  /** Resolves when the turn has come; rejects if the VM is deleted meanwhile. */
  access: Promise<GuestAccess>;
  /** Leaves the queue, or passes the turn on. */
  end(): void;
}

export interface AnkaService {
  status(): Promise<DaemonStatus>;
  shutdown(): void;
  onEvent(listener: (event: DaemonEvent) => void): () => void;
  metrics(): Promise<string>;
  list(): Promise<VmListEntry[]>;
  create(request: CreateRequest, progress: OnProgress): Promise<{ uuid: string }>;
  show(ref: string): Promise<VmShow>;
  describe(ref: string): Promise<VmDescribe>;
  guest(ref: string): Promise<GuestAccess>;
  login(ref: string): LoginTurn;
  modify(ref: string, request: ModifyRequest): Promise<void>;
  start(ref: string, settings: CallSettings, progress: OnProgress): Promise<VmShow>;
  stop(ref: string, force: boolean, settings: CallSettings, progress: OnProgress): Promise<void>;
  suspend(ref: string, progress: OnProgress): Promise<void>;
  reboot(ref: string, force: boolean, settings: CallSettings, progress: OnProgress): Promise<void>;
  clone(ref: string, name: string, tag: string | null, progress: OnProgress): Promise<{ uuid: string }>;
  tags(ref: string): Promise<ShownTag[]>;
  saveTag(ref: string, request: TagRequest, progress: OnProgress): Promise<ShownTag>;
  restoreTag(ref: string, tag: string, progress: OnProgress): Promise<void>;
  deleteTag(ref: string, tag: string): Promise<void>;
  wait(ref: string, until: 'ip' | 'stopped', timeoutSeconds: number): Promise<VmShow>;
  delete(ref: string, progress: OnProgress): Promise<void>;
  addCard(ref: string, request: NetworkCardRequest, settings: CallSettings, progress: OnProgress): Promise<{ message: string }>;
  setCard(ref: string, request: NetworkCardRequest, settings: CallSettings, progress: OnProgress): Promise<{ message: string }>;
  deleteCard(ref: string): Promise<void>;
  addRule(ref: string, request: RuleRequest, settings: CallSettings): Promise<{ host_port: number }>;
  renameRule(ref: string, name: string, newName: string): Promise<void>;
  deleteRule(ref: string, name: string): Promise<void>;
  mounts(ref: string): Promise<ShownMount[]>;
  /** Resolves when the directory is mounted in the guest, or stored for the next start. */
  mount(ref: string, request: MountRequest, progress: OnProgress): Promise<ShownMount>;
  /** `mount`: its ID or its name. */
  unmount(ref: string, mount: string): Promise<void>;
  settings(overrides: CallSettings): Promise<SettingValue[]>;
  setting(key: string, overrides: CallSettings): Promise<SettingValue>;
  setSetting(key: string, value: string): Promise<SettingValue>;
  resetSetting(key: string): Promise<SettingValue>;
  networks(): Promise<NetworkStatus[]>;
  resetNetworks(): Promise<{ removed: string[] }>;
  doctor(): Promise<DoctorFinding[]>;
  explain(ref: string, question: ExplainQuestion): Promise<Explanation>;
  capture(ref: string, side: CaptureSide, filter: string): Promise<CaptureStream>;
  endCapture(id: string): Promise<CaptureEnd>;
  buildBaseImage(progress: OnProgress): Promise<void>;
}
