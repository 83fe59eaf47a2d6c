/** What the controller reports of its host: CPUs, memory, disk. */
import { statfsSync } from 'node:fs';
import { availableParallelism, freemem, loadavg, totalmem } from 'node:os';

const GIB = 1024 ** 3;
/** Memory that a VM has by default. */
const VM_BYTES = 4 * GIB;

/** VMs that a host may run by default: one a CPU, as far as its memory goes. */
export function defaultCapacity(cpus = availableParallelism(), bytes = totalmem()): number {
  return Math.max(1, Math.min(cpus, Math.floor(bytes / VM_BYTES)));
}

export interface HostFacts {
  cpus: number;
  /** GiB. */
  ram: number;
  /** From 0 to 1: the load of the last minute per CPU, and the share of memory in use. */
  cpuUse: number;
  ramUse: number;
  /** Bytes, of the disk that holds the VMs. */
  diskSize: number;
  diskFree: number;
}

/** `state`: the directory of the VMs. */
export function hostFacts(state: string): HostFacts {
  const cpus = availableParallelism();
  const { blocks, bavail, bsize } = statfsSync(state);
  return {
    cpus,
    ram: Math.max(1, Math.round(totalmem() / GIB)),
    cpuUse: Math.min(1, (loadavg()[0] as number) / cpus),
    ramUse: 1 - freemem() / totalmem(),
    diskSize: blocks * bsize,
    diskFree: bavail * bsize,
  };
}
