import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MAX_PACKET, SFTP, SftpError, SftpPackets, SftpReader, SftpWriter } from './sftp.ts';

/** OPEN of `a/b` for reading, id 7, with permissions 0644. */
const OPEN = Buffer.from('00000018' + '03' + '00000007' + '00000003612f62' + '00000001' + '00000004' + '000001a4', 'hex');

test('a packet of the draft is read field by field', () => {
  const packets = new SftpPackets();
  packets.push(OPEN);
  const r = new SftpReader(packets.next()!);
  expect([r.byte(), r.uint32(), r.string(), r.uint32(), r.attributes()]).toEqual([SFTP.open, 7, 'a/b', 1, { permissions: 0o644 }]);
  expect(() => r.byte()).toThrow(SftpError);
  expect(packets.next()).toBeNull();
});

test('packets survive any splitting of the stream', () => {
  const stream = Buffer.concat([OPEN, new SftpWriter(SFTP.status).uint32(1).string('x'.repeat(300)).end(), OPEN]);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: stream.length }), { maxLength: 12 }), (cuts) => {
      const at = [0, ...cuts.sort((a, b) => a - b), stream.length];
      const packets = new SftpPackets();
      const found: string[] = [];
      for (let i = 1; i < at.length; i++) {
        packets.push(stream.subarray(at[i - 1], at[i]));
        for (let p = packets.next(); p; p = packets.next()) found.push(p.toString('hex'));
      }
      expect(found).toEqual(
        [stream.subarray(4, OPEN.length), stream.subarray(OPEN.length + 4, -OPEN.length), stream.subarray(4 - OPEN.length)].map((b) => b.toString('hex')),
      );
    }),
  );
});

test('every truncation throws, and never reads beyond the packet', () => {
  for (let length = 1; length < OPEN.length - 4; length++) {
    const r = new SftpReader(OPEN.subarray(4, 4 + length));
    expect(() => [r.byte(), r.uint32(), r.string(), r.uint32(), r.attributes()]).toThrow(SftpError);
  }
});

test('lengths beyond the bound, paths with a zero byte, and offsets beyond 2^53 are refused', () => {
  for (const length of [0, MAX_PACKET + 1, 0xffffffff]) {
    const packets = new SftpPackets();
    const head = Buffer.alloc(4);
    head.writeUInt32BE(length);
    packets.push(head);
    expect(() => packets.next()).toThrow(SftpError);
  }
  expect(() => new SftpReader(new SftpWriter(0).string('a\0b').end().subarray(5)).string()).toThrow(SftpError);
  expect(() => new SftpReader(new SftpWriter(0).string('a'.repeat(4097)).end().subarray(5)).string()).toThrow(SftpError);
  expect(() => new SftpReader(Buffer.alloc(8, 0xff)).uint64()).toThrow(SftpError);
});

test('what is written is read again, names that are not UTF-8 included', () => {
  const name = Buffer.from([0x61, 0xff, 0xfe]).toString('latin1');
  const attributes = { size: 5e9, permissions: 0o100644, times: { accessed: 1, modified: 0xffffffff } };
  const packet = new SftpWriter(SFTP.name, 1)
    .uint32(3)
    .string(name)
    .attributes(attributes)
    .uint64(2 ** 40)
    .end();
  const r = new SftpReader(packet.subarray(4));
  expect([r.byte(), r.uint32(), r.string(), r.attributes(), r.uint64()]).toEqual([SFTP.name, 3, name, { ...attributes, owner: { uid: 0, gid: 0 } }, 2 ** 40]);
});
