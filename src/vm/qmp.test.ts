import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { LineParser, printable, Qmp } from './qmp.ts';

const STREAM = '{"QMP": {"version": {}}}\r\n{"return": {}, "id": 1}\r\n{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}\r\n';

test('messages are complete, wherever the input is split', () => {
  const whole = new LineParser().push(STREAM);
  expect(whole).toHaveLength(3);
  for (let at = 0; at <= STREAM.length; at++) {
    const p = new LineParser();
    expect([...p.push(STREAM.slice(0, at)), ...p.push(STREAM.slice(at))]).toEqual(whole);
  }
  const p = new LineParser();
  expect([...STREAM].flatMap((c) => p.push(c))).toEqual(whole);
});

test('a line without end throws', () => {
  const p = new LineParser();
  expect(() => {
    for (let i = 0; i < 20; i++) p.push('x'.repeat(100_000));
  }).toThrow(/more than 256 KiB/);
});

describe('a QEMU that its guest has taken over', () => {
  let dir = '';
  let server: Server;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'anka-qmp-'));
  });
  afterEach(() => {
    server.close();
    rmSync(dir, { recursive: true, force: true });
  });

  /** A connection to a QEMU that negotiates, and answers each further command with these texts. */
  async function connected(answer: (socket: Socket, id: number) => void): Promise<Qmp> {
    const path = join(dir, 's');
    server = createServer((socket) => {
      socket.on('error', () => {});
      socket.write('{"QMP": {}}\n');
      let text = '';
      socket.on('data', (d) => {
        const lines = (text + d).split('\n');
        text = lines.pop() as string;
        for (const { execute, id } of lines.map((l) => JSON.parse(l) as { execute: string; id: number }))
          if (execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${id}}\n`);
          else answer(socket, id);
      });
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    return Qmp.connect(path);
  }

  test('events without end are read at a bounded rate, and commands are still answered in between', async () => {
    const qmp = await connected((socket, id) => {
      socket.write(`{"return": "first", "id": ${id}}\n`);
      const events = '{"event": "RTC_CHANGE"}\n'.repeat(2000);
      const flood = (): void => void (socket.write(events) ? setImmediate(flood) : socket.once('drain', flood));
      flood();
    });
    let events = 0;
    qmp.onEvent(() => events++);
    const since = performance.now();
    expect(await qmp.command('begin')).toBe('first');
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const seconds = (performance.now() - since) / 1000;
    expect(events).toBeGreaterThan(500);
    // a second's worth, the elapsed ones', and a chunk of the socket
    expect(events).toBeLessThan(1300 * (seconds + 1) + 65_536 / 20);
    qmp.close();
    await qmp.closed;
  });

  test.each<[string, string]>([
    ['brackets within brackets', `{"return": ${'['.repeat(100_000)}${']'.repeat(100_000)}, "id": ID}\n`],
    ['objects within objects', `{"return": ${'{"a":'.repeat(40_000)}1${'}'.repeat(40_000)}, "id": ID}\n`],
    ['an error that is a deep list', `{"error": {"desc": ${'['.repeat(100_000)}${']'.repeat(100_000)}}, "id": ID}\n`],
    ['an error without a text', '{"error": {"desc": {"toString": 1}}, "id": ID}\n'],
    ['an error that is a number', '{"error": 5, "id": ID}\n'],
    ['an event whose data is a list', '{"event": "SHUTDOWN", "data": [[]]}\n{"return": 1, "id": ID}\n'],
    ['null', 'null\n'],
    ['a number', '17\n'],
    ['a line that is too long', 'x'.repeat((256 << 10) + 1)],
    ['bytes that are no text', '\u{fffd}\0\n'],
  ])('%s: an answer, an error or the end of the connection, and no exception elsewhere', async (_, text) => {
    const qmp = await connected((socket, id) => socket.write(text.replaceAll('ID', String(id))));
    qmp.onEvent((_name, data) => printable(data['reason'] ?? ''));
    const end = await qmp.command('query-status').then(
      () => 'answered',
      (e: Error) => e.message,
    );
    expect(end).toMatch(/^answered$|^QEMU: |^QEMU closed its QMP socket$/);
    qmp.close();
    await qmp.closed;
  });

  test('one that closes its connection gets no descriptor', async () => {
    const qmp = await connected((socket) => socket.destroy());
    await qmp.command('end').catch(() => {});
    await expect(qmp.passDescriptor('memory', 0)).rejects.toThrow(/QEMU has exited/);
  });
});
