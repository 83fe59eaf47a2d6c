/** `anka events`: prints the daemon's events as they occur, until interrupted, or nobody reads them. */
import { once } from 'node:events';
import { whenUnread } from '../output/unread.ts';
import type { Session } from '../session.ts';

export async function events(s: Session): Promise<void> {
  const daemon = await s.daemon();
  whenUnread(() => process.exit());
  for await (const e of await daemon.events()) {
    const line = s.out.machine ? JSON.stringify(e) : `${new Date(e.time).toISOString()} ${e.type.padEnd(16)} ${e.vm ? `${e.vm.name}: ` : ''}${e.message}`;
    if (!process.stdout.write(`${line}\n`)) await once(process.stdout, 'drain');
  }
}
