import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';

/** What node:inspector says after SIGUSR1. */
const afterSignal = (first: string): string =>
  String(
    execFileSync(process.execPath, [
      '--inspect-port=127.0.0.1:0',
      '--import',
      'tsx',
      '--input-type=module',
      '-e',
      `${first}
       const { url } = await import('node:inspector');
       process.kill(process.pid, 'SIGUSR1');
       for (let i = 0; i < 100 && !url(); i++) await new Promise((resolve) => setTimeout(resolve, ${first === '' ? 100 : 10}));
       console.log(url() ? 'open' : 'closed');`,
    ]),
  ).trim();

test('B91: SIGUSR1 opens no debugger', () => {
  expect(afterSignal(''), 'it does in other programs').toBe('open');
  expect(afterSignal(`await import(${JSON.stringify(new URL('./no-debugger.ts', import.meta.url).href)});`)).toBe('closed');
});
