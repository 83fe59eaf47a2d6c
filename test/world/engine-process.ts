/** Drives an engine inside a namespace: this file is run there by `RemoteEngine`, and answers JSON lines on its standard streams. */
import { createInterface } from 'node:readline';
import { createKernelEngine } from '../../src/engine/kernel/index.ts';
import { createUserEngine } from '../../src/engine/user/index.ts';

const [, , kind, runDir, stateDir] = process.argv;
const quiet = { info: () => {}, warn: (o: object, m: string) => process.env['ANKA_DEBUG'] && process.stderr.write(`${m} ${JSON.stringify(o)}\n`) };

async function main(): Promise<void> {
  const options = { runDir: runDir as string, stateDir: stateDir as string, log: quiet };
  const engine = kind === 'user' ? createUserEngine(options) : await createKernelEngine(options);
  process.stdout.write('{"ready":true}\n');
  for await (const line of createInterface({ input: process.stdin })) {
    const { id, method, params } = JSON.parse(line) as { id: number; method: string; params: unknown[] };
    try {
      const result = await (engine as unknown as Record<string, (...a: unknown[]) => Promise<unknown>>)[method]?.(...params);
      process.stdout.write(`${JSON.stringify({ id, result: result ?? null })}\n`);
    } catch (cause) {
      process.stdout.write(`${JSON.stringify({ id, error: (cause as Error).message })}\n`);
    }
  }
  await engine.close();
  process.exit(0);
}

await main();
