// Compiles assembly/kernels.ts to src/net/memory/kernels-wasm.ts. With --check it only compares: exit status 1 if the
// file is out of date.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const root = fileURLToPath(new URL('..', import.meta.url));
const target = join(root, 'src/net/memory/kernels-wasm.ts');
const dir = mkdtempSync(join(tmpdir(), 'anka-kernels-'));
try {
  const out = join(dir, 'kernels.wasm');
  const flags = ['--runtime', 'stub', '--enable', 'simd', '--importMemory', '--noAssert', '--use', 'abort=', '-O3', '--converge'];
  const { error, stderr } = await asc.main([join(root, 'assembly/kernels.ts'), ...flags, '-o', out]);
  if (error) throw new Error(stderr.toString(), { cause: error });
  const lines =
    readFileSync(out)
      .toString('base64')
      .match(/.{1,140}/g) ?? [];
  const text = `/** assembly/kernels.ts, compiled. Written by scripts/kernels.mjs: do not edit. */\nexport const KERNELS = [\n${lines.map((l) => `  '${l}',`).join('\n')}\n].join('');\n`;
  if (!process.argv.includes('--check')) writeFileSync(target, text);
  else if (readFileSync(target, 'utf8') !== text) {
    console.error('src/net/memory/kernels-wasm.ts is not what assembly/kernels.ts compiles to: run "node scripts/kernels.mjs"');
    process.exitCode = 1;
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
