/** Queueing disciplines and filters as the kernel describes them (RTM_NEWQDISC, RTM_NEWTFILTER, rtnetlink(7)). */
import { AttributeReader } from './attribute-reader.ts';
import { attribute, CREATE, CREATE_OR_CHANGE, u32 } from './netlink.ts';
import { changeRtnetlink, dumpRtnetlink } from './rtnetlink.ts';

const RTM_NEWQDISC = 36;
const RTM_DELQDISC = 37;
const RTM_GETQDISC = 38;
const RTM_NEWTFILTER = 44;
const RTM_DELTFILTER = 45;
const RTM_GETTFILTER = 46;
/** struct tcmsg: offsets, and its length. */
const INDEX = 4;
const HANDLE = 8;
const PARENT = 12;
const INFO = 16;
const HEADER = 20;
const TCA = { kind: 1, options: 2, chain: 11 } as const;
const BPF = { fd: 6, name: 7, flags: 8, tag: 10, id: 11 } as const;
/** TCA_BPF_FLAG_ACT_DIRECT */
const DIRECT_ACTION = 1;
/** Parents of a clsact's filters (TC_H_MIN_INGRESS, TC_H_MIN_EGRESS). */
const HOOKS = { ingress: 0xfffffff2, egress: 0xfffffff3 } as const;

/** ETH_P_ALL, in network byte order. */
const ALL_PROTOCOLS = 0x0300;
const FIRST_HANDLE = 1;

/** Parent and handle of clsact itself (TC_H_CLSACT). */
const CLSACT = { parent: 0xfffffff1, handle: 0xffff0000 } as const;

export interface QdiscMessage {
  /** Index of its interface. */
  index: number;
  kind: string;
}

export interface FilterMessage {
  kind: string;
  preference: number;
  chain: number;
  /** Of kind bpf, and none of the entries that only announce a preference. */
  bpf: { name: string; directAction: boolean; tag: string; id: number } | null;
}

/** Queueing disciplines of all interfaces. */
export function readQdiscs(): QdiscMessage[] {
  return dumpRtnetlink(RTM_GETQDISC, Buffer.alloc(HEADER)).flatMap((body) => parseQdisc(body) ?? []);
}

/** Filters at a clsact's hook, of every chain; none where there is no clsact, or no such interface. */
export function readFilters(index: number, hook: keyof typeof HOOKS): FilterMessage[] {
  const header = Buffer.alloc(HEADER);
  header.writeInt32LE(index, INDEX);
  header.writeUInt32LE(HOOKS[hook], PARENT);
  return dumpRtnetlink(RTM_GETTFILTER, header).flatMap((body) => parseFilter(body) ?? []);
}

/** Throws the kernel's errors. */
export function addClsact(index: number): void {
  changeRtnetlink(RTM_NEWQDISC, CREATE, clsact(index));
}

/** Removes every filter of it, too. Throws the kernel's errors. */
export function deleteClsact(index: number): void {
  changeRtnetlink(RTM_DELQDISC, 0, clsact(index));
}

function clsact(index: number): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeInt32LE(index, INDEX);
  header.writeUInt32LE(CLSACT.handle, HANDLE);
  header.writeUInt32LE(CLSACT.parent, PARENT);
  return Buffer.concat([header, attribute(TCA.kind, Buffer.from('clsact\0'))]);
}

/** A filter of kind bpf, in direct action mode. */
export interface BpfFilterRequest {
  index: number;
  hook: keyof typeof HOOKS;
  chain: number;
  preference: number;
  /** The kernel keeps it. */
  name: string;
  /** Descriptor of its program. */
  program: number;
}

/** Adds a filter, or replaces the one of its hook, chain and preference. Throws the kernel's errors. */
export function replaceFilter(filter: BpfFilterRequest): void {
  changeRtnetlink(RTM_NEWTFILTER, CREATE_OR_CHANGE, filterMessage(filter));
}

export function filterMessage({ index, hook, chain, preference, name, program }: BpfFilterRequest): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeInt32LE(index, INDEX);
  header.writeUInt32LE(FIRST_HANDLE, HANDLE);
  header.writeUInt32LE(HOOKS[hook], PARENT);
  header.writeUInt32LE(((preference << 16) | ALL_PROTOCOLS) >>> 0, INFO);
  const options = [attribute(BPF.fd, u32(program)), attribute(BPF.name, Buffer.from(`${name}\0`)), attribute(BPF.flags, u32(DIRECT_ACTION))];
  return Buffer.concat([header, attribute(TCA.kind, Buffer.from('bpf\0')), attribute(TCA.chain, u32(chain)), attribute(TCA.options, Buffer.concat(options))]);
}

/** Deletes the filters of a hook's preference in chain 0. Throws the kernel's errors. */
export function deleteFilters(index: number, hook: keyof typeof HOOKS, preference: number): void {
  const header = Buffer.alloc(HEADER);
  header.writeInt32LE(index, INDEX);
  header.writeUInt32LE(HOOKS[hook], PARENT);
  header.writeUInt32LE((preference << 16) >>> 0, INFO);
  changeRtnetlink(RTM_DELTFILTER, 0, header);
}

/** Null: it is too short. */
export function parseQdisc(body: Buffer): QdiscMessage | null {
  if (body.length < HEADER) return null;
  return { index: body.readInt32LE(INDEX), kind: new AttributeReader(body, HEADER).text(TCA.kind) };
}

/** The interface of any message of traffic control; null if it is too short. */
export function parseTrafficControl(body: Buffer): { index: number } | null {
  return body.length < HEADER ? null : { index: body.readInt32LE(INDEX) };
}

/** Null: it is too short. */
export function parseFilter(body: Buffer): FilterMessage | null {
  if (body.length < HEADER) return null;
  const all = new AttributeReader(body, HEADER);
  const kind = all.text(TCA.kind);
  return {
    kind,
    preference: body.readUInt32LE(INFO) >>> 16,
    chain: all.u32(TCA.chain) ?? 0,
    bpf: kind === 'bpf' && all.has(TCA.options) ? parseBpf(all.nested(TCA.options)) : null,
  };
}

function parseBpf(options: AttributeReader): FilterMessage['bpf'] {
  return {
    name: options.text(BPF.name),
    directAction: ((options.u32(BPF.flags) ?? 0) & DIRECT_ACTION) !== 0,
    tag: options.bytes(BPF.tag)?.toString('hex') ?? '',
    id: options.u32(BPF.id) ?? 0,
  };
}
