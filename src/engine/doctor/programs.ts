/** `anka doctor` on the programs that an engine and QEMU need (B93). */
import { run } from '../../host/exec.ts';
import type { DoctorFinding } from '../engine.ts';

/** A program, arguments with which it only prints its version, and its Debian package. */
export type RequiredProgram = [program: string, args: string[], pkg: string];

/** Needed with every engine. */
const ALWAYS: readonly RequiredProgram[] = [
  ['qemu-system-x86_64', ['--version'], 'qemu-system-x86'],
  ['qemu-img', ['--version'], 'qemu-utils'],
  ['ssh', ['-V'], 'openssh-client'],
];

/** `ofEngine`: what the engine needs besides. */
export async function programFindings(ofEngine: readonly RequiredProgram[] = []): Promise<DoctorFinding[]> {
  const found = await Promise.all(
    [...ofEngine, ...ALWAYS].map(([program, args, pkg]) =>
      run(program, args).then(
        () => [],
        () => [pkg],
      ),
    ),
  );
  const missing = found.flat();
  if (missing.length === 0) return [{ id: 'programs', level: 'ok', message: 'all required programs are installed', remedy: '' }];
  return [{ id: 'programs', level: 'error', message: `missing packages: ${missing.join(', ')}`, remedy: `apt-get install ${missing.join(' ')}` }];
}
