// Drives an engine inside a namespace: this file is run there by `RemoteEngine`, and answers JSON lines on its standard
// streams. The engine is the compiled one, which starts in a moment.
import { createInterface } from 'node:readline';
import { createKernelEngine } from '../../dist/engine/kernel/index.js';
import { createUserEngine } from '../../dist/engine/user/index.js';

const [, , kind, runDir, stateDir] = process.argv;
const log = { info: () => {}, warn: (o, m) => process.env['ANKA_DEBUG'] && process.stderr.write(`${m} ${JSON.stringify(o)}\n`) };
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const engine = await (kind === 'user' ? createUserEngine : createKernelEngine)({ runDir, stateDir, log });
say({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  try {
    say({ id, result: (await engine[method]?.(...params)) ?? null });
  } catch (cause) {
    say({ id, error: cause.message });
  }
}
await engine.close();
process.exit(0);
