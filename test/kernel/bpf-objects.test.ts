/**
 * The compiled eBPF objects match the sources beside them, hold no path of the build machine, and load into the kernel.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { kernelHasTcx } from '../world/tcx.ts';
import { missing } from '../world/world.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const assets = join(root, 'assets/bpf');
const wanted = readFileSync(join(assets, 'clang-version'), 'utf8').trim();

/**
 /**
  * Why the sources cannot be compiled and compared here, or null. The tests do not install clang: it takes half a
  * gigabyte.
  */
function cannotCompile(): string | null {
  try {
    const found = execFileSync('clang', ['-dumpversion'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    return found === wanted ? null : `the objects were built by clang ${wanted}, this is ${found}`;
  } catch {
    return 'clang is not installed';
  }
}

const why = cannotCompile();
const out = mkdtempSync(join(tmpdir(), 'anka-bpf-'));
afterAll(() => rmSync(out, { recursive: true }));

const objects = readdirSync(assets).filter((f) => f.endsWith('.o'));
const sources = readdirSync(join(root, 'bpf')).filter((f) => f.endsWith('.bpf.c'));

describe('compiled eBPF', () => {
  test('sources and objects correspond one to one', () => expect(objects).toEqual(sources.map((s) => s.replace(/c$/, 'o'))));

  test.skipIf(why !== null)(`compiling the sources gives the same bytes${why ? ` (${why})` : ''}`, () => {
    execFileSync(join(root, 'scripts/build-bpf.sh'), [out], { stdio: 'inherit' });
    for (const o of objects) expect(readFileSync(join(out, o)).equals(readFileSync(join(assets, o))), `${o}: run scripts/build-bpf.sh`).toBe(true);
  });

  test.each(objects)('%s contains nothing about the machine that built it', (o) => {
    const text = readFileSync(join(assets, o), 'latin1');
    expect(text).not.toMatch(/\/(home|root|tmp|work|usr)\/|clang version|\.debug_|\.BTF/);
  });
});

const rights = missing('root', 'netns');
test.skipIf(rights !== null)(
  `a program is attached once per direction and preference, replaced in place, listed and detached${rights ? ` (${rights})` : ''}`,
  () => {
    const script = `ip link add v0 type veth peer name v1 && exec ${process.execPath} --import tsx test/world/tc-process.ts v0 mac-translate`;
    const result = JSON.parse(execFileSync('unshare', ['-n', 'sh', '-c', script], { cwd: root, encoding: 'utf8' })) as Record<string, unknown[]>;
    const filter = (direction: string, preference: number, section: string): object => ({
      direction,
      chain: 0,
      preference,
      name: `mac-translate.bpf.o:[tc/${section}]`,
      directAction: true,
      tag: expect.stringMatching(/^[0-9a-f]{16}$/),
      id: expect.any(Number),
    });
    expect(result['bare']).toEqual([false, []]);
    expect(result['attached']).toEqual([filter('ingress', 1, 'from_guest'), filter('ingress', 7, 'to_guest'), filter('egress', 1, 'to_guest')]);
    expect(result['less']).toEqual([filter('ingress', 7, 'to_guest'), filter('egress', 1, 'to_guest')]);
    expect(result['removed']).toEqual([false, []]);
  },
);

test.skipIf(rights !== null)(`B41: signals during the kernel’s verification of a program do not count as a rejection${rights ? ` (${rights})` : ''}`, () => {
  const result = JSON.parse(execFileSync(process.execPath, ['--import', 'tsx', 'test/world/ebpf-signals-process.ts'], { cwd: root, encoding: 'utf8' }));
  expect(result).toEqual({ refusals: [] });
});

describe.skipIf(rights !== null || !kernelHasTcx)(`programs at tcx${rights ? ` (${rights})` : kernelHasTcx ? '' : ' (needs Linux 6.6)'}`, () => {
  const run = (...as: string[]): Record<string, unknown> => {
    const script = `ip link add v0 type veth peer name v1 && ip link add v2 type veth peer name v3 && mount -t sysfs none /sys && mount -t bpf none /sys/fs/bpf && exec "$@"`;
    const program = [process.execPath, '--import', 'tsx', 'test/world/tcx-hooks-process.ts', 'v0', 'v2', 'no-touch-bridge'];
    return JSON.parse(execFileSync('unshare', ['-n', '-m', 'sh', '-c', script, 'sh', ...as, ...program], { cwd: root, encoding: 'utf8' })) as Record<
      string,
      unknown
    >;
  };
  const [ours, others] = [['anka_nic_in'], ['to_guest']];
  const both = [[...others, ...ours], ['anka_nic_out']];

  test('our programs are attached after a foreign one, replaced in place, repaired and detached; the foreign one stays', () => {
    expect(run()).toEqual({
      bare: [false, [[], []]],
      first: [true, false, true, both],
      exchanged: [true, both, [false, true]],
      undisturbed: false,
      doubled: [[[...others, ...ours, ...ours], ['anka_nic_out']], false, true, both],
      taken: [[[...others, ...ours], []], true, false, true, both],
      removed: [others, []],
      withoutInterface: [true, false, [[], []]],
    });
  });

  test('a process that may not look up programs by id has no tcx', () => {
    expect(run('setpriv', '--bounding-set=-sys_admin', '--inh-caps=-sys_admin')).toEqual({ hooks: false });
  });
});
