/** What is tested is the compiled program: it has to be there, and to be made of what the source says now. */
import { readdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
let checked = false;

/** The compiled `anka`. Throws where there is none, or its source has changed since. */
export function builtMain(): string {
  const main = `${root}dist/cli/main.js`;
  if (checked) return main;
  const built = statSync(main, { throwIfNoEntry: false })?.mtimeMs;
  if (built === undefined) throw new Error("dist is not built: run 'npm run build'");
  for (const file of readdirSync(`${root}src`, { recursive: true, encoding: 'utf8' }))
    if (file.endsWith('.ts') && !file.endsWith('.test.ts') && statSync(`${root}src/${file}`).mtimeMs > built)
      throw new Error(`src/${file} is newer than dist: run 'npm run build'`);
  checked = true;
  return main;
}
