/** The commands that start the controller's program, and `anka` for it. */
import { ownProgram } from './own-program.ts';

/** Right in this directory and in that of `anka`'s bundle, as both are one level below the root (daemon-program.ts). */
export const controllerCommand = (): [node: string, ...args: string[]] => ownProgram(new URL('../controller/main.ts', import.meta.url));

/** `anka` itself. */
export const ankaCommand = (): [node: string, ...args: string[]] => ownProgram(new URL('../cli/main.ts', import.meta.url));
