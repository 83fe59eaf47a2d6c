// Makes functions of src/host fail in an engine's process, as many times as a file says: loaded by `--import`, it puts
// a module of its own in the place of each one that has such a function (module.register).
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { register } from 'node:module';
import { isMainThread } from 'node:worker_threads';

/** Functions that can fail, by the end of their module's URL. */
const FUNCTIONS = {
  '/dist/host/tc.js': 'replaceBpfFilter',
  '/dist/host/netlink/sockets.js': 'closeSockets',
  '/dist/host/unicast-filter.js': 'addFilterAddress',
};
const REAL = '?real';

/** A hook of the loader. */
export async function load(url, context, next) {
  const name = FUNCTIONS[Object.keys(FUNCTIONS).find((end) => url.endsWith(end))];
  if (name === undefined) return next(url, context);
  const real = JSON.stringify(url + REAL);
  const source = `
    import { ${name} as real } from ${real};
    import { mayFail } from ${JSON.stringify(import.meta.url)};
    export * from ${real};
    export const ${name} = (...args) => (mayFail('${name}', args[0]), real(...args));`;
  return { format: 'module', shortCircuit: true, source };
}

/**
 * Runs what the file `NAME.json` says if it is for this first argument, and fails if that does. `$1` is the argument.
 */
export function mayFail(name, argument) {
  const file = `${process.env.ANKA_TEST_FAULTS}/${name}.json`;
  let fault;
  try {
    fault = JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return; // none
  }
  if (fault.times === 0 || !String(argument).startsWith(fault.argument)) return;
  writeFileSync(file, JSON.stringify({ ...fault, times: fault.times - 1 }));
  execFileSync('sh', ['-c', fault.what, 'sh', String(argument)], { stdio: ['ignore', 'ignore', 'inherit'] });
}

if (isMainThread) register(import.meta.url);
