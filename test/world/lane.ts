/** Test files run side by side: each worker puts its number before the names of its namespaces (world.ts). */
process.env['ANKA_TEST_WORLD'] = `${process.env['ANKA_TEST_WORLD'] ?? ''}${process.env['VITEST_POOL_ID']}`;

// a pid that was not found becomes 0, which would end this process and all others of its group
const kill = process.kill.bind(process);
process.kill = (pid, signal) => {
  if (!(pid > 1)) throw new Error(`no process to signal: ${pid}`);
  return kill(pid, signal);
};
