/**
 * What the controller answers, in the fields that its clients read. Pure.
 *
 * Some clients are strict: Go's fail at an empty date, or at a `progress` that is no whole number; the Java ones at a
 * field that is null. So a field without a value is left out, unless a client demands it.
 */
import type { VmShow } from '../api/types.ts';
import { NO_ADDRESS_YET } from '../lib/rule-reasons.ts';
import { parseSize } from '../lib/sizes.ts';
import type { Instance, InstanceState, Metadata, ScriptResult } from './instance.ts';

export interface PortForwarding {
  guest_port: number;
  host_port: number;
  protocol: 'tcp' | 'udp';
  /** The name, once as each of two clients reads it. */
  name: string;
  rule_name: string;
}

export interface VmInfo {
  uuid: string;
  name: string;
  status: string;
  cpu_cores: number;
  ram: string;
  node_id: string;
  /** Where the forwarded ports are. */
  host_ip: string;
  /** Empty while it has none. */
  ip: string;
  mac?: string;
  creation_date: string;
  port_forwarding?: PortForwarding[];
}

export interface InstanceBody {
  instance_id: string;
  instance_state: InstanceState;
  vmid: string;
  tag: string;
  group_id: string;
  node_id?: string;
  name?: string;
  external_id?: string;
  message?: string;
  vminfo?: VmInfo;
  startup_script?: Omit<ScriptResult, 'errors'> & { errors?: string[] };
  metadata?: Metadata;
  priority: number;
  anka_registry: string;
  arch: string;
  /** Dates as RFC 3339: of the order, and of the last change. */
  cr_time: string;
  ts: string;
  progress: 0;
  vlan: string;
}

export interface TemplateBody {
  id: string;
  name: string;
  /** Bytes on disk. */
  size: number;
  arch: string;
}

export interface TemplateVersion {
  tag: string;
  number: number;
  description: string;
  size: number;
}

/** This host, as an instance names it. */
export interface NodeNames {
  id: string;
  address: string;
  registry: string;
}

/** The names of architectures in Anka's API. */
export const architecture = (arch: string): string => (arch === 'x64' ? 'amd64' : arch);

/** `vm`: the instance's VM; null if it has none. */
export function instanceBody(i: Instance, vm: VmShow | null, node: NodeNames): InstanceBody {
  const result = i.result && { ...i.result, errors: i.result.errors };
  return {
    instance_id: i.id,
    instance_state: i.state,
    vmid: i.templateId,
    tag: i.tag,
    group_id: i.groupId,
    ...(i.state === 'Scheduling' ? {} : { node_id: node.id }),
    ...(i.name ? { name: i.name } : {}),
    ...(i.externalId ? { external_id: i.externalId } : {}),
    ...(i.message ? { message: i.message } : {}),
    ...(vm ? { vminfo: vmInfo(vm, node) } : {}),
    ...(result ? { startup_script: withoutEmptyErrors(result) } : {}),
    ...(Object.keys(i.metadata).length > 0 ? { metadata: i.metadata } : {}),
    priority: i.priority,
    anka_registry: node.registry,
    arch: architecture(process.arch),
    cr_time: date(i.created),
    ts: date(i.updated),
    progress: 0,
    vlan: '',
  };
}

function withoutEmptyErrors({ errors, ...rest }: ScriptResult): NonNullable<InstanceBody['startup_script']> {
  return errors.length > 0 ? { ...rest, errors } : rest;
}

function vmInfo(vm: VmShow, node: NodeNames): VmInfo {
  // clients read the ports of a VM once, when it is started
  const inactive = new Set(vm.inactive_rules?.filter((r) => r.reason !== NO_ADDRESS_YET).map((r) => r.name));
  const rules = vm.port_forwarding.filter((r) => r.host_port > 0 && !inactive.has(r.name));
  return {
    uuid: vm.uuid,
    name: vm.name,
    status: vm.status,
    cpu_cores: vm.cpu_cores,
    ram: vm.ram,
    node_id: node.id,
    host_ip: node.address,
    ip: vm.ip ?? '',
    ...(vm.mac ? { mac: vm.mac } : {}),
    creation_date: vm.creation_date,
    ...(rules.length > 0
      ? { port_forwarding: rules.map((r) => ({ guest_port: r.guest_port, host_port: r.host_port, protocol: r.protocol, name: r.name, rule_name: r.name })) }
      : {}),
  };
}

export function templateBody(vm: VmShow): TemplateBody {
  return { id: vm.uuid, name: vm.name, size: vm.image_size, arch: architecture(process.arch) };
}

/** Memory of VMs, MiB. */
export function totalRam(vms: readonly VmShow[]): number {
  return vms.reduce((sum, vm) => sum + Math.round((parseSize(vm.ram) ?? 0) / (1 << 20)), 0);
}

const date = (ms: number): string => new Date(ms).toISOString();
