/** What a confined process can no longer do, tried in a process of its own. */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { callFilter } from './confinement.ts';

const PROBE = `
const { confine } = await import(${JSON.stringify(new URL('./confinement.ts', import.meta.url).href)});
const { spawnSync } = await import('node:child_process');
const { writeFileSync, readFileSync, truncateSync } = await import('node:fs');
const { readFile } = await import('node:fs/promises');
const koffi = (await import(${JSON.stringify(import.meta.resolve('koffi'))})).default;
const call = koffi.load('libc.so.6').func('long syscall(long, long, long, long, long)');
const kept = await confine();
const [execve, ptrace, unshare, number] = { x64: [59, 101, 272, 39], arm64: [221, 117, 97, 172] }[process.arch];
const errnoOf = (...a) => (call(...a) < 0 ? koffi.errno() : 0);
let large = null;
try { writeFileSync(process.argv[1], ''); truncateSync(process.argv[1], 65 << 20); } catch (e) { large = e.code; }
console.log(JSON.stringify({
  kept,
  program: spawnSync('/bin/true').error?.code ?? null,
  calls: [errnoOf(execve, 0, 0, 0, 0), errnoOf(ptrace, 0, 0, 0, 0), errnoOf(unshare, 0x10000000, 0, 0, 0)],
  usual: call(number, 0, 0, 0, 0) === process.pid,
  threads: (await readFile('/proc/self/limits', 'utf8')).length > 0,
  large,
  limits: readFileSync('/proc/self/limits', 'utf8'),
  status: readFileSync('/proc/self/status', 'utf8'),
}));
`;

test.skipIf(process.platform !== 'linux' || callFilter(process.arch).length === 0)(
  'a confined process runs no program, creates no process, traces none, leaves no core and no large file; the rest works',
  () => {
    const large = join(tmpdir(), `anka-confined-${process.pid}`);
    const argv = ['--import', 'tsx', '--input-type=module', '-e', PROBE, large];
    const as = process.getuid?.() === 0 ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', 'env', 'HOME=/nonexistent'] : ['env'];
    const seen = JSON.parse(String(execFileSync(as[0] as string, [...as.slice(1), process.execPath, ...argv])));
    rmSync(large);
    expect(seen).toMatchObject({ kept: ['files'], calls: [1, 1, 1], usual: true, threads: true, large: 'EFBIG' });
    expect(seen.program).toMatch(/EAGAIN|EPERM/);
    expect(seen.limits).toMatch(/^Max core file size +0 +0 /m);
    expect(seen.limits).toMatch(/^Max processes +0 +0 /m);
    expect(seen.status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(seen.status).toMatch(/^Seccomp:\t2$/m);
  },
);
