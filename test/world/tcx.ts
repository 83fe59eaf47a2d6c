/** The tcx hooks of an interface in a namespace, which `tc` and `ip` of Debian 12 do not show. */
import { release } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Namespace } from './world.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const [major, minor] = release().split('.').map(Number) as [number, number];

/** Whether this kernel has tcx (Linux 6.6). */
export const kernelHasTcx = major > 6 || (major === 6 && minor >= 6);

/** Names of the attached programs by direction, as JSON. */
export function tcxPrograms(ns: Namespace, device: string, then: 'detach' | '' = ''): string {
  return ns.run(`${process.execPath} --import tsx test/world/tcx-process.ts ${device} ${then}`, { cwd: root }).trim();
}
