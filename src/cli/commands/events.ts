/** `anka events`: prints the daemon's events as they occur, until interrupted. */
import type { Session } from '../session.ts';

export async function events(s: Session): Promise<void> {
  const daemon = await s.daemon();
  for await (const e of daemon.events()) {
    process.stdout.write(
      s.out.machine ? `${JSON.stringify(e)}\n` : `${new Date(e.time).toISOString()} ${e.type.padEnd(16)} ${e.vm ? `${e.vm.name}: ` : ''}${e.message}\n`,
    );
  }
}
