/** Kernel settings under /proc/sys. */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';

const path = (key: string): string => `/proc/sys/${key}`;

/**
 * The value, or null if the kernel has no such key. `key` uses slashes: net/ipv4/ip_forward. Read at once: a file of
 * /proc waits for nothing, and threads of libuv would be woken for each of its parts.
 */
export async function readSysctl(key: string): Promise<string | null> {
  try {
    return readFileSync(path(key), 'utf8').trim();
  } catch {
    return null;
  }
}

/** Sets a key, if it exists and differs. True if it was changed. */
export async function setSysctl(key: string, value: string): Promise<boolean> {
  const now = await readSysctl(key);
  if (now === null || now === value) return false;
  await writeFile(path(key), value);
  return true;
}
