// Compiles src to dist, bundles each program into one file, makes the two commands executable, and writes the manual
// pages and the licenses of what is bundled. Says nothing when all is well.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, relative } from 'node:path';
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
await bundlePrograms();
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

/**
 * Replaces the other programs' main modules by bundles with their packages: to find, read and compile 300 files takes
 * more than half of a start (decision 32). `import.meta.url` of a bundled module is its path as if it were not bundled.
 * Not minified, as the log has the stacks of exceptions.
 */
async function bundlePrograms() {
  const { build } = await import('esbuild');
  const packages = new Set();
  for (const program of [
    'daemon/main',
    'controller/main',
    'engine/user/process/network-main',
    'engine/kernel/service/service-main',
    'host/sandbox/fenced-main',
    'host/share/share-main',
  ]) {
    const outfile = `${root}dist/${program}.js`;
    const ownPaths = {
      name: 'own-paths',
      setup: ({ onLoad }) =>
        onLoad({ filter: /\/src\/.*\.ts$/ }, ({ path }) => {
          const own = relative(dirname(outfile), path.replace(`${root}src`, `${root}dist`).replace(/\.ts$/, '.js'));
          const contents = readFileSync(path, 'utf8').replaceAll('import.meta.url', `new URL('./${own}', import.meta.url).href`);
          return { contents, loader: 'ts' };
        }),
    };
    const { metafile } = await build({
      entryPoints: [`${root}src/${program}.ts`],
      outfile,
      allowOverwrite: true,
      bundle: true,
      metafile: true,
      platform: 'node',
      target: 'node20',
      format: 'esm',
      // native modules, and what runs programs from source
      external: ['koffi', '@photostructure/sqlite', 'tsx'],
      plugins: [ownPaths],
      // for packages that are CommonJS
      banner: { js: "import { createRequire as createRequireOfBundle } from 'node:module';\nconst require = createRequireOfBundle(import.meta.url);" },
      logLevel: 'warning',
    });
    for (const input of Object.keys(metafile.inputs)) {
      const [, name] = /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input) ?? [];
      if (name) packages.add(name);
    }
  }
  const licenses = [...packages].sort().map((name) => {
    const dir = `${root}node_modules/${name}/`;
    const file = readdirSync(dir).find((f) => /^licen[cs]e/i.test(f));
    const { license, homepage } = JSON.parse(readFileSync(`${dir}package.json`, 'utf8'));
    return `== ${name}\n\n${file ? readFileSync(dir + file, 'utf8').trim() : `${license}, ${homepage}`}\n`;
  });
  writeFileSync(`${root}dist/licenses.txt`, `The programs contain these packages.\n\n${licenses.join('\n')}`);
}
