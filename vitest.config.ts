import { defineConfig } from 'vitest/config';

/**
 * `unit` needs nothing but Node and runs side by side; `world` makes namespaces, guests and daemons, one file at a
 * time.
 */
export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['src/**/*.test.ts', 'test/*.test.ts', 'test/sim/**/*.test.ts', 'test/fuzz/**/*.test.ts'], testTimeout: 120_000 } },
      {
        test: {
          name: 'world',
          include: ['test/{contract,kernel,vm,cli}/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
