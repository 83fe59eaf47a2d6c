/** How a program of ours is started. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** Command that runs the program of a source file: its compiled `.js` if there is one beside, otherwise by tsx. */
export function ownProgram(source: URL): [node: string, ...args: string[]] {
  const file = fileURLToPath(source);
  const compiled = file.replace(/\.ts$/, '.js');
  if (existsSync(compiled)) return [process.execPath, compiled];
  return [process.execPath, '--import', pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href, file.replace(/\.js$/, '.ts')];
}
