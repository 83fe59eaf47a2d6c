/** QEMU's command line: pure, from specification and backend to arguments. */
import { join } from 'node:path';
import type { NicBackend } from '../engine/engine.ts';
import type { MachineSpec } from './machine.ts';

/** Device ids of the card and of its root port. */
export const NIC_ID = 'nic0';
const NIC_PORT = 'port-nic';
export const DISK_ID = 'disk0';
export const NETDEV = 'net0';
/** Ring of received frames: the largest that QEMU takes. Its largest for sending is its default, 256, with a tap. */
const RX_QUEUE_SIZE = 1024;
/** Descriptors that QEMU inherits: listening sockets, a log to append to, tap queues, memory and a seed to read. */
export interface Descriptors {
  qmp: number;
  console: number;
  consoleLog: number;
  tap?: TapReferences;
  memory?: number;
  seed?: number;
}
/** How QEMU refers to the descriptors of a tap: by numbers that it inherits, or by names that were passed to it. */
export interface TapReferences {
  fds: readonly (number | string)[];
  vhostFds: readonly (number | string)[];
}
type Properties = Record<string, string | number | boolean>;
/** QEMU's sets of the descriptors of the console log and of the seed. */
const LOG_SET = 1;
const SEED_SET = 2;

/** Files in a machine's run directory. */
export function machineFiles(runDir: string): { qmp: string; console: string; consoleLog: string; log: string } {
  return {
    qmp: join(runDir, 'qmp.sock'),
    console: join(runDir, 'console.sock'),
    consoleLog: join(runDir, 'console.log'),
    log: join(runDir, 'qemu.log'),
  };
}

/** A value in a QEMU option list: commas are doubled. */
const quoted = (value: string): string => value.replaceAll(',', ',,');

function mac(value: number): string {
  return value.toString(16).padStart(12, '0').match(/../g)!.join(':');
}

/**
 * The card's properties for `device_add` and `-device`. MSI-X vectors: one for each queue, the control queue, and the
 * configuration.
 */
export function cardProperties(nic: NonNullable<MachineSpec['nic']>, backend: NicBackend): Properties {
  const queues = backend.kind === 'tap' ? backend.fds.length : 1;
  const virtio = nic.controller === 'virtio-net';
  return {
    driver: virtio ? 'virtio-net-pci' : 'e1000',
    id: NIC_ID,
    netdev: NETDEV,
    mac: mac(nic.insideMac),
    bus: NIC_PORT,
    romfile: '',
    ...(virtio && nic.mtu !== 1500 ? { host_mtu: nic.mtu } : {}),
    ...(virtio && backend.kind === 'tap' ? { rx_queue_size: RX_QUEUE_SIZE } : {}),
    ...(virtio && queues > 1 ? { mq: true, vectors: 2 * queues + 2 } : {}),
  };
}

/** A tap's properties for `netdev_add` and `-netdev`. */
export function tapProperties({ fds, vhostFds }: TapReferences): Properties {
  return { type: 'tap', id: NETDEV, fds: fds.join(':'), ...(vhostFds.length > 0 ? { vhost: true, vhostfds: vhostFds.join(':') } : {}) };
}

/** `first` names the driver or type. */
function optionList(first: string, properties: Properties): string {
  const { [first]: head, ...rest } = properties;
  return [head, ...Object.entries(rest).map(([k, v]) => `${k}=${typeof v === 'boolean' ? (v ? 'on' : 'off') : v}`)].join(',');
}

function netdev(backend: NicBackend, { tap }: Descriptors): string {
  if (backend.kind === 'stream') return `stream,id=${NETDEV},server=on,addr.type=unix,addr.path=${quoted(backend.path)}`;
  return optionList('type', tapProperties(tap ?? backend));
}

/** The arguments after the program's name. */
export function qemuArguments(spec: MachineSpec, backend: NicBackend | null, fds: Descriptors): string[] {
  const args = [
    ...['-name', `guest=${quoted(spec.name)},process=anka-${quoted(spec.name)}`.slice(0, 200)],
    ...['-uuid', spec.uuid],
    ...['-machine', 'q35,vmport=off', '-accel', spec.accel, '-cpu', spec.accel === 'tcg' ? 'max' : 'host'],
    ...['-smp', String(spec.cpus), '-m', `${spec.ram}M`],
    ...['-no-user-config', '-nodefaults', '-display', 'none', '-boot', 'strict=on'],
    ...['-chardev', `socket,id=qmp,fd=${fds.qmp},server=on,wait=off`, '-mon', 'chardev=qmp,mode=control'],
    ...['-add-fd', `fd=${fds.consoleLog},set=${LOG_SET}`],
    ...['-chardev', `socket,id=con,fd=${fds.console},server=on,wait=off,logfile=/dev/fdset/${LOG_SET},logappend=on`, '-serial', 'chardev:con'],
    ...['-object', 'rng-random,id=rng0,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng0'],
    ...[
      '-drive',
      `file=${quoted(spec.disk)},if=none,id=${DISK_ID},format=qcow2,discard=unmap,detect-zeroes=unmap`,
      '-device',
      `virtio-blk-pci,drive=${DISK_ID},bootindex=1`,
    ],
    ...['-device', `pcie-root-port,id=${NIC_PORT},chassis=1,slot=1`, '-device', 'pcie-root-port,id=port-spare,chassis=2,slot=2'],
  ];
  if (spec.boot.kind === 'direct') args.push('-kernel', spec.boot.kernel, '-initrd', spec.boot.initrd, '-append', spec.boot.append);
  else if (fds.seed !== undefined)
    args.push('-add-fd', `fd=${fds.seed},set=${SEED_SET}`, '-drive', `file=/dev/fdset/${SEED_SET},if=virtio,format=raw,readonly=on`);
  if (backend) args.push('-netdev', netdev(backend, fds));
  if (backend && spec.nic) args.push('-device', optionList('driver', cardProperties(spec.nic, backend)));
  if (fds.memory !== undefined) args.push('-incoming', `fd:${fds.memory}`);
  else args.push('-S');
  args.push('-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny');
  return args;
}
