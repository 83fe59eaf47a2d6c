/** An eBPF object's two filters at a VM's tap, one for each direction. */
import { type BpfFilter, ensureClsact, replaceBpfFilter, type TcDirection } from '../../../host/tc.ts';
import type { EbpfObject } from './object.ts';

export interface TapProgram {
  direction: TcDirection;
  section: string;
}

export const TAP_PROGRAMS: readonly TapProgram[] = [
  { direction: 'ingress', section: 'tc/from_guest' },
  { direction: 'egress', section: 'tc/to_guest' },
];

/** What a tap should have. The kernel keeps `fileName` as part of the filter's name. */
export interface TapFilters {
  device: string;
  preference: number;
  object: EbpfObject;
  fileName: string;
}

/** The filter of a program among those of the tap. */
export function findFilter(wanted: TapFilters, program: TapProgram, filters: readonly BpfFilter[]): BpfFilter | undefined {
  return filters.find(
    (f) => f.direction === program.direction && f.preference === wanted.preference && f.directAction && f.name === `${wanted.fileName}:[${program.section}]`,
  );
}

/** Attaches programs in place of what has their direction and preference. `dir`: for a copy of the object. */
export async function attachFilters(dir: string, wanted: TapFilters, programs: readonly TapProgram[]): Promise<void> {
  await wanted.object.withFile(dir, wanted.fileName, async (path) => {
    await ensureClsact(wanted.device);
    for (const program of programs) await replaceBpfFilter(wanted.device, { ...program, preference: wanted.preference, object: path });
  });
}
