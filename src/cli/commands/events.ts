/** `anka events`: prints the daemon's events as they occur, until interrupted, or nobody reads them. */
import { whenUnread } from '../output/unread.ts';
import type { Session } from '../session.ts';

export async function events(s: Session): Promise<void> {
  const daemon = await s.daemon();
  whenUnread(() => process.exit());
  for await (const e of await daemon.events()) {
    process.stdout.write(
      s.out.machine ? `${JSON.stringify(e)}\n` : `${new Date(e.time).toISOString()} ${e.type.padEnd(16)} ${e.vm ? `${e.vm.name}: ` : ''}${e.message}\n`,
    );
  }
}
