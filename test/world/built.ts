/** Tests run the compiled program: it must exist and be newer than its source. */
import { readdirSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
let checked = false;

/** Path of the compiled `anka`. Throws when it is missing or older than its source. */
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
