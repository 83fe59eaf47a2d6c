/** The id of the host's boot: it changes with each; empty where it is not known. */
import { readFileSync } from 'node:fs';

function read(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return '';
  }
}

/** Read at start, as a fenced process cannot later. */
export const BOOT_ID = read();
