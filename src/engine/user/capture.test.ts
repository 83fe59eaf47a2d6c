/** Records of a capture; the process that sends them is not trusted. */
import { expect, test } from 'vitest';
import { RecordReader } from './capture.ts';

function record(length: number, bytes: number): Buffer {
  const r = Buffer.alloc(13 + bytes);
  r.writeUInt32BE(length);
  return r;
}

test('records split at every byte are read completely', () => {
  const reader = new RecordReader();
  const frames = [...Buffer.concat([record(60, 60), record(0, 0), record(1514, 1514)])].flatMap((byte) => reader.read(Buffer.of(byte)));
  expect(frames.map((f) => f.length)).toEqual([60, 0, 1514]);
});

test.each([65_601, 0x7fffffff, 0xffffffff])('a record that claims %i bytes is refused before its bytes are read', (length) => {
  expect(() => new RecordReader().read(record(length, 10))).toThrow(/claims/);
});
