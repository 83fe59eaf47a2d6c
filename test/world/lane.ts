/** Test files run side by side: each worker puts its number before the names of its namespaces (world.ts). */
process.env['ANKA_TEST_WORLD'] = `${process.env['ANKA_TEST_WORLD'] ?? ''}${process.env['VITEST_POOL_ID']}`;
