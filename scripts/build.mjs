// Compiles src to dist, makes the two commands executable, and writes the manual pages. Says nothing when all is well.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const tsc = `${root}node_modules/typescript/bin/tsc`;
if (!existsSync(tsc)) {
  if (existsSync(`${root}dist/cli/main.js`)) process.exit(0); // an installed package comes built
  console.error('typescript is not installed: run "npm ci" first');
  process.exit(1);
}
rmSync(`${root}dist`, { recursive: true, force: true });
const run = spawnSync(process.execPath, [tsc, '-p', `${root}tsconfig.build.json`], { stdio: 'inherit' });
if (run.status !== 0) process.exit(run.status ?? 1);
for (const bin of ['cli/main.js', 'daemon/main.js']) if (existsSync(`${root}dist/${bin}`)) chmodSync(`${root}dist/${bin}`, 0o755);
const { buildTree } = await import('../dist/cli/tree/tree.js');
const { modifyTree } = await import('../dist/cli/tree/modify.js');
const { manualPages } = await import('../dist/cli/help/manual.js');
mkdirSync(`${root}dist/man`);
for (const [file, text] of manualPages(buildTree(null), modifyTree(null, 'VM'))) writeFileSync(`${root}dist/man/${file}`, text);
