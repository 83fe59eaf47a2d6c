/**
 * `anka doctor`: what on this host breaks the networks, and how to fix it (B93). Exits with 1 when it found an error.
 */
import type { DoctorFinding } from '../../api/types.ts';
import type { Session } from '../session.ts';

const LABELS: Record<DoctorFinding['level'], string> = { ok: 'ok     ', warning: 'WARNING', error: 'ERROR  ' };

export async function doctor(s: Session): Promise<void> {
  const findings = await (await s.daemon()).get<DoctorFinding[]>('/v1/doctor');
  const lines = findings.map((f) => `${LABELS[f.level]} ${f.message}${f.remedy ? `\n        to fix it: ${f.remedy}` : ''}`);
  s.out.done(findings, lines.join('\n'));
  if (findings.some((f) => f.level === 'error')) s.exit(1);
}
