/** How a program of ours is started. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** Command that runs the program of a source file: its compiled `.js` if there is one beside, otherwise by tsx. */
export function ownProgram(source: URL): [node: string, ...args: string[]] {
  const file = fileURLToPath(source);
  const compiled = file.replace(/\.ts$/, '.js');
  if (existsSync(compiled)) return [process.execPath, compiled];
  return [process.execPath, '--import', import.meta.resolve('tsx'), file.replace(/\.js$/, '.ts')];
}
