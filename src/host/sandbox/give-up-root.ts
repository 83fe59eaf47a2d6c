/** Root's helper process becomes a user of its own, to whom its folders belong (docs/decisions/0012). */
import { lchownSync, mkdirSync } from 'node:fs';
import { becomeUser } from '../ffi/process.ts';

/**
 * Does nothing for others than root. Nothing in the folders is touched as root, for that user may have put a link
 * there. `capabilities`: what it keeps of root's rights, of `CAPABILITY`.
 */
export function giveUpRoot(uid: number, gid: number, folders: readonly string[], capabilities: readonly number[]): void {
  if (process.getuid?.() !== 0) return;
  for (const folder of folders) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    lchownSync(folder, uid, gid);
  }
  becomeUser(uid, gid, capabilities);
}
