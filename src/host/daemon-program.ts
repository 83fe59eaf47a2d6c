/** The command that starts the daemon. */
import { ownProgram } from './own-program.ts';

/**
 * The daemon lives long and does little: a small young generation and one thread for the heap and the compiler save a
 * third of its memory, at about the same CPU time (--no-opt would add a third to that). The first line of
 * src/daemon/main.ts has the same options, for `ankad` itself.
 */
export const DAEMON_NODE_OPTIONS = ['--max-semi-space-size=1', '--optimize-for-size', '--single-threaded-gc', '--v8-pool-size=1'];

/**
 * The program's address is right in this directory and in that of `anka`'s bundle (scripts/build.mjs), as both are one
 * level below the root of source or compiled files.
 */
export function daemonCommand(): [node: string, ...args: string[]] {
  const [node, ...words] = ownProgram(new URL('../daemon/main.ts', import.meta.url));
  return [node, ...DAEMON_NODE_OPTIONS, ...words];
}
