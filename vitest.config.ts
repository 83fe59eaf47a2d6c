import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** A bound that only a hang reaches, on a slow and busy machine too (ms). */
const HANG_MS = 3_600_000;

/**
 * Files of `world` that take longest, slowest first: they start first, so that no lane runs alone at the end. The rest
 * follows in any order. `npm test` prints the durations from which this list is kept.
 */
const SLOWEST_FIRST = [
  'cli/walk',
  'vm/mtu',
  'vm/live',
  'vm/controller',
  'vm/guest-commands',
  'vm/guests',
  'vm/crash',
  'contract/tcp-path',
  'contract/engine',
  'vm/mac-translation',
  'cli/poor-host',
  'contract/explain',
  'contract/greed',
  'contract/explain-bridge',
  'vm/spoofing',
  'vm/user-engine',
  'kernel/bridge-tcx',
  'vm/root-user-engine',
  'conformance/old-connections',
  'vm/sessions',
  'conformance/dns',
  'vm/taken-over',
  'cli/commands',
  'kernel/bridge-clsact',
  'contract/helper-processes',
  'contract/spoofing',
];

class SlowestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = (f: TestSpecification): number => {
      const at = SLOWEST_FIRST.findIndex((name) => f.moduleId.endsWith(`test/${name}.test.ts`));
      return at < 0 ? SLOWEST_FIRST.length : at;
    };
    return (await super.sort(files)).sort((a, b) => rank(a) - rank(b));
  }
}

/**
 * `unit` needs nothing but Node. `world` makes namespaces, guests and daemons: each worker names its own
 * (test/world/lane.ts).
 */
export default defineConfig({
  test: {
    sequence: { sequencer: SlowestFirst },
    projects: [
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'test/*.test.ts', 'test/sim/**/*.test.ts', 'test/fuzz/**/*.test.ts'],
          maxWorkers: availableParallelism(),
          testTimeout: HANG_MS,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: 'world',
          include: ['test/{contract,conformance,kernel,vm,cli}/**/*.test.ts'],
          pool: 'forks',
          setupFiles: ['test/world/lane.ts'],
          // these tests mostly wait: for guests that boot, and for what must not arrive
          maxWorkers: Number(process.env['ANKA_TEST_LANES'] ?? 3 * availableParallelism()),
          testTimeout: HANG_MS,
          hookTimeout: HANG_MS,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
