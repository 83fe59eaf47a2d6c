/** `anka modify VM set ram|cpu|name`. */
import type { ModifyRequest } from '../../../api/types.ts';
import { integer } from '../../arguments.ts';
import { type Session, vmPath } from '../../session.ts';

export async function setProperties(s: Session, ref: string, request: ModifyRequest): Promise<void> {
  await (await s.daemon()).patch(vmPath(ref), request);
  s.out.done({});
}

export function setCpuCount(s: Session, ref: string, count: string): Promise<void> {
  return setProperties(s, ref, { cpu_count: integer('N', count, { low: 1, high: 64 }) });
}
