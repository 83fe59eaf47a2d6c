/** Where the daemon's program is. */

/**
 * For `ownProgram`. The address is right in this directory and in that of `anka`'s bundle (scripts/build.mjs), as both
 * are one level below the root of source or compiled files.
 */
export const DAEMON_PROGRAM = new URL('../daemon/main.ts', import.meta.url);
