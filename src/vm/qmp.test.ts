import { expect, test } from 'vitest';
import { LineParser } from './qmp.ts';

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
  }).toThrow(/more than 1 MiB/);
});
