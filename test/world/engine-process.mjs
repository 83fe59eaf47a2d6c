// Drives an engine inside a namespace: this file is run there by `RemoteEngine`, and answers JSON lines on its standard
// streams. The engine is the compiled one, which starts in a moment.
import { createInterface } from 'node:readline';
import { createKernelEngine } from '../../dist/engine/kernel/index.js';
import { createUserEngine } from '../../dist/engine/user/index.js';

const [, , kind, runDir, stateDir] = process.argv;
const log = { info: () => {}, warn: (o, m) => process.env['ANKA_DEBUG'] && process.stderr.write(`${m} ${JSON.stringify(o)}\n`) };
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

/** The last backend of each card. */
const backends = new Map();
const openNic = async (id) => {
  const backend = await engine.openNic(id);
  backends.set(id, backend);
  return backend;
};
/** How often the engine reported a possible change, as after each check that changes of the host caused. */
let reports = 0;
const calls = { openNic, listening: (id) => backends.get(id).listening(), reports: () => reports };

const engine = await (kind === 'user' ? createUserEngine : createKernelEngine)({ runDir, stateDir, log });
engine.watch(() => reports++);
say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  try {
    say({ id, result: (await (calls[method] ?? engine[method]?.bind(engine))?.(...params)) ?? null });
  } catch (cause) {
    say({ id, error: cause.message });
  }
}
await engine.close();
process.exit(0);
