import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { PassThrough, Writable } from 'node:stream';
import { afterEach, expect, test } from 'vitest';
import { joinStreams } from './join-streams.ts';

const open: { close(): void }[] = [];
afterEach(() => {
  for (const o of open.splice(0)) o.close();
});

/** Both ends of a connection. */
async function pair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  open.push(server);
  await once(server, 'listening');
  const near = connect({ port: (server.address() as { port: number }).port, host: '127.0.0.1', allowHalfOpen: true });
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [[Socket], unknown];
  open.push({ close: () => far.destroy() }, { close: () => near.destroy() });
  return [near, far];
}

test('B14: each direction ends by itself', async () => {
  const [near, far] = await pair();
  const input = new PassThrough();
  const output = new PassThrough();
  const over = joinStreams(near, input, output);
  input.end('question');
  expect(String((await once(far, 'data'))[0])).toBe('question');
  await once(far, 'end');
  far.end('answer');
  expect(String((await once(output, 'data'))[0])).toBe('answer');
  await over;
});

test('B14: the peer ends first: the output ends, the input is passed on while it has data, then the connection ends', async () => {
  const [near, far] = await pair();
  const input = new PassThrough();
  const output = new PassThrough();
  const over = joinStreams(near, input, output);
  far.end('bye');
  expect(String((await once(output, 'data'))[0])).toBe('bye');
  const farEnd = once(far, 'end');
  input.write('late');
  expect(String((await once(far, 'data'))[0])).toBe('late');
  await over; // the input stays open
  await farEnd;
  expect(output.readableEnded).toBe(true);
});

test('B14: an error of the input or output closes the connection without an error', async () => {
  const [near, far] = await pair();
  const input = new PassThrough();
  const over = joinStreams(near, input, new PassThrough());
  input.destroy(Object.assign(new Error('read'), { code: 'ECONNRESET' }));
  await once(far.resume(), 'end');
  far.end();
  await over;
  const [near2, far2] = await pair();
  const gone = new Writable({ write: (_c, _e, done) => done(Object.assign(new Error('write'), { code: 'EPIPE' })) });
  const over2 = joinStreams(near2, new PassThrough(), gone);
  far2.write('nobody reads this');
  await over2;
});

test('B14: writing to a closed peer is no error, a reset is one', async () => {
  const [near, far] = await pair();
  const over = joinStreams(near, new PassThrough(), new PassThrough());
  near.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
  await over;
  far.destroy();
  const [near2, far2] = await pair();
  const over2 = joinStreams(near2, new PassThrough(), new PassThrough());
  far2.resetAndDestroy();
  await expect(over2).rejects.toThrow('ECONNRESET');
  const [near3, far3] = await pair();
  const output = new PassThrough();
  const over3 = joinStreams(near3, new PassThrough(), output);
  // both are in the kernel before the stream looks again
  far3.write('cut off');
  far3.resetAndDestroy();
  await expect(over3).rejects.toThrow('ECONNRESET');
  expect(String(output.read())).toBe('cut off');
});
