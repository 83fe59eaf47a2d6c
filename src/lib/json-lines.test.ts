/** The control protocol with a misbehaving peer: its connection is closed, and this side continues. */

import { once } from 'node:events';
import { createConnection, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { beginStream } from './begin-stream.ts';
import { LineClient, serveLines } from './json-lines.ts';

const path = join(tmpdir(), `anka-lines-${process.pid}.sock`);
const server = createServer();
const methods = { say: async (p: { text: string }) => p.text.toUpperCase() };
let accepted: Promise<Socket>;

beforeEach(async () => {
  accepted = once(server, 'connection').then(([s]) => s as Socket);
  server.listen(path);
  await once(server, 'listening');
});
afterEach(() => new Promise<void>((resolve) => server.close(() => resolve())));

/** Lines that are neither a request nor an answer. */
const BROKEN = ['{', 'null', '7', '"text"', '{"id":1,"method":"say"', '\u0000', '[', '{"id":1}}', 'x'.repeat(100_000)];

test.each(BROKEN)('the server closes the connection on malformed line %#', async (line) => {
  const client = createConnection(path).on('error', () => {});
  serveLines(
    (await accepted).on('error', () => {}),
    methods as never,
  );
  client.write(`${line}\n`);
  client.resume();
  await once(client, 'close');
});

test.each(['toString', 'constructor', '__proto__', 'hasOwnProperty', '', 'nothing'])('there is no method named %s', async (method) => {
  const client = new LineClient(createConnection(path), () => {});
  serveLines(await accepted, methods as never);
  await expect(client.call(method, {})).rejects.toThrow(/no method/);
  expect(await client.call('say', { text: 'on' })).toBe('ON');
  client.close();
});

test.each(BROKEN)('the client closes the connection on malformed line %#, and rejects pending calls', async (line) => {
  const client = new LineClient(createConnection(path), () => {});
  const peer = await accepted;
  const asked = client.call('say', {});
  peer.write(`${line}\n`);
  await expect(asked).rejects.toThrow(/connection to the helper process is closed/);
  peer.destroy();
});

test.each(BROKEN)('a stream that is answered by malformed line %# fails', async (line) => {
  const begun = beginStream(path, {});
  const peer = (await accepted).on('error', () => {});
  peer.write(`${line}\n`);
  await expect(begun).rejects.toThrow(/no answer|does not answer/);
  peer.destroy();
});

test('a call that is not answered in time fails, and its late answer is ignored', async () => {
  const client = new LineClient(createConnection(path), () => {});
  let answer = (): void => {};
  const wait = () =>
    new Promise<string>((resolve) => {
      answer = () => resolve('late');
    });
  serveLines(await accepted, { ...methods, wait } as never);
  await expect(client.call('wait', {}, 50)).rejects.toThrow(/did not answer 'wait' within 0.05 s/);
  answer();
  expect(await client.call('say', { text: 'on' })).toBe('ON');
  client.close();
});

test('requests split at every byte are parsed the same', async () => {
  const client = createConnection(path);
  serveLines(await accepted, methods as never);
  const said: string[] = [];
  client.setEncoding('utf8').on('data', (d: string) => said.push(d));
  const text = `{"id":1,"method":"say","params":{"text":"ä"}}\n\n{"id":2,"method":"say","params":{"text":"b"}}\n`;
  client.setNoDelay();
  for (const byte of Buffer.from(text)) {
    client.write(Buffer.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  while (said.join('').split('\n').length < 3) await once(client, 'data');
  expect(said.join('')).toBe('{"id":1,"result":"Ä"}\n{"id":2,"result":"B"}\n');
  client.destroy();
});

test('a line without an end is kept only up to the limit', async () => {
  const client = createConnection(path).on('error', () => {});
  const peer = await accepted;
  serveLines(
    peer.on('error', () => {}),
    methods as never,
  );
  const chunk = Buffer.alloc(1 << 20, 'x');
  let written = 0;
  const more = (): void => {
    while (!client.destroyed && client.write(chunk)) written++;
    written++;
  };
  client.on('drain', more).resume();
  more();
  await new Promise((resolve) => client.once('close', resolve));
  expect(written).toBeLessThan(64);
});
