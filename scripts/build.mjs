// Compiles src to dist, bundles `anka` into one file, makes the two commands executable, and writes the manual pages.
// Says nothing when all is well.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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
await writeManual();
await bundleCommand();
for (const bin of ['cli/main.js', 'daemon/main.js']) chmodSync(`${root}dist/${bin}`, 0o755);

async function writeManual() {
  const { buildTree } = await import('../dist/cli/tree/tree.js');
  const { modifyTree } = await import('../dist/cli/tree/modify.js');
  const { manualPages } = await import('../dist/cli/help/manual.js');
  mkdirSync(`${root}dist/man`);
  for (const [file, text] of manualPages(buildTree(null), modifyTree(null, 'VM'))) writeFileSync(`${root}dist/man/${file}`, text);
}

/**
 * Replaces the modules in dist/cli by one file: Node starts faster the fewer files it has to find. CommonJS, as the
 * loader of ES modules alone takes longer than all of `anka`, and as it loads a module of Node only where it is needed.
 */
async function bundleCommand() {
  const { build } = await import('esbuild');
  const license = readFileSync(`${root}node_modules/commander/LICENSE`, 'utf8').trim();
  const { outputFiles } = await build({
    entryPoints: [`${root}src/cli/main.ts`],
    bundle: true,
    write: false,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    define: { 'import.meta.url': 'importMetaUrl' },
    banner: { js: `'use strict';\n/* With commander:\n\n${license}\n*/\nconst importMetaUrl = require('node:url').pathToFileURL(__filename).href;` },
    logLevel: 'warning',
  });
  rmSync(`${root}dist/cli`, { recursive: true });
  mkdirSync(`${root}dist/cli`);
  writeFileSync(`${root}dist/cli/main.js`, outputFiles[0].contents);
  writeFileSync(`${root}dist/cli/package.json`, '{ "type": "commonjs" }\n');
}
