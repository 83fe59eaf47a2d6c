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
  return filters.find((f) => f.direction === program.direction && f.preference === wanted.preference && f.directAction && f.name === nameOf(wanted, program));
}

/** Attaches programs in place of what has their direction and preference. */
export async function attachFilters(wanted: TapFilters, programs: readonly TapProgram[]): Promise<void> {
  const { device, preference, object } = wanted;
  await ensureClsact(device);
  for (const program of programs) {
    const { direction, section } = program;
    await replaceBpfFilter(device, { direction, preference, name: nameOf(wanted, program), code: object.program(section) });
  }
}

/** As `tc` names a filter that it loads from a file. */
const nameOf = ({ fileName }: TapFilters, { section }: TapProgram): string => `${fileName}:[${section}]`;
