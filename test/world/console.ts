/** The root shell on a guest's serial console, typed into like a person would. */
import { createConnection } from 'node:net';
import { join } from 'node:path';
import type { Anka } from './anka.ts';
import { until } from './world.ts';

/** The shell has not begun with the line: it discards what is typed while it starts. */
const NOT_BEGUN_MS = 5000;
/** It has begun, but a part of the line may be lost. Longer than any line's commands take on a slow machine. */
const NOT_ENDED_MS = 120_000;

/** Types a line until the shell has run all of it; returns the output. It may run more than once. */
export async function typeLine(anka: Anka, vm: string, line: string): Promise<string> {
  const uuid = (await anka.ok(`show ${vm} uuid`)).trim();
  const socket = createConnection(join(anka.home, 'run/vm', uuid.slice(0, 8), 'console.sock'));
  let text = '';
  let failure: Error | null = null;
  socket.on('error', (error) => {
    failure = error;
  });
  socket.on('data', (d: Buffer) => {
    text += d.toString('latin1');
  });
  let attempt = 0;
  let typed = 0;
  try {
    const found = await until(`${vm} did: ${line}`, () => {
      if (failure) throw failure;
      const limit = text.includes(`BEGIN${attempt}`) ? NOT_ENDED_MS : NOT_BEGUN_MS;
      if (attempt === 0 || Date.now() - typed > limit) {
        attempt++;
        typed = Date.now();
        // Ctrl-C drops what is left of an earlier line. The terminal echoes the input: only the shell joins the marks
        socket.write(`${attempt > 1 ? '\x03' : ''}\necho BE""GIN${attempt}; ${line}; echo E""ND${attempt}\n`);
      }
      return /BEGIN(\d+)\r?\n([\s\S]*?)END\1\r?\n/.exec(text);
    });
    return found[2] as string;
  } finally {
    socket.destroy();
  }
}
