/** Kernel settings under /proc/sys. */
import { readFile, writeFile } from 'node:fs/promises';

const path = (key: string): string => `/proc/sys/${key}`;

/** The value, or null if the kernel has no such key. `key` uses slashes: net/ipv4/ip_forward. */
export async function readSysctl(key: string): Promise<string | null> {
  return readFile(path(key), 'utf8').then(
    (t) => t.trim(),
    () => null,
  );
}

/** Sets a key, if it exists and differs. True if it was changed. */
export async function setSysctl(key: string, value: string): Promise<boolean> {
  const now = await readSysctl(key);
  if (now === null || now === value) return false;
  await writeFile(path(key), value);
  return true;
}
