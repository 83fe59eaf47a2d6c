/** Turns root's helper process into an unprivileged user that owns its directories (docs/decisions/0012). */
import { lchownSync, mkdirSync } from 'node:fs';
import { becomeUser } from '../ffi/process.ts';

/**
 * Does nothing unless it runs as root. Nothing inside the directories is touched as root, as that user may have put a
 * link there. `capabilities`: those of `CAPABILITY` to keep.
 */
export function dropRoot(uid: number, gid: number, directories: readonly string[], capabilities: readonly number[]): void {
  if (process.getuid?.() !== 0) return;
  for (const directory of directories) {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    lchownSync(directory, uid, gid);
  }
  becomeUser(uid, gid, capabilities);
}
