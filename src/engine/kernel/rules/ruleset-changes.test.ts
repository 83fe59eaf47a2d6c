import { expect, test } from 'vitest';
import { attribute, u32 } from '../../../host/netlink/netlink.ts';
import { RulesetChanges } from './ruleset-changes.ts';

const HEADER = Buffer.of(2, 0, 0, 0);
const message = (kind: number, table: string) => ({ type: 0x0a00 | kind, body: Buffer.concat([HEADER, attribute(1, Buffer.from(`${table}\0`))]) });
const generation = (id: number) => ({ type: 0x0a0f, body: Buffer.concat([HEADER, attribute(1, u32(id, true))]) });
const NEW_CHAIN = 3;
const DELETE_TABLE = 2;
const NEW_ELEMENT = 12;

test('a transaction is reported at its end, with whether it is on our tables', () => {
  const changes = new RulesetChanges();
  const take = (...messages: { type: number; body: Buffer }[]) => messages.map((m) => changes.take(m));
  expect(take(message(NEW_CHAIN, 'filter'), generation(7))).toEqual([null, { generation: 7, isOnOurs: false }]);
  expect(take(message(DELETE_TABLE, 'anka'), message(NEW_CHAIN, 'filter'), generation(8))).toEqual([null, null, { generation: 8, isOnOurs: true }]);
  expect(take(message(NEW_ELEMENT, 'anka_flows'), generation(9))).toEqual([null, { generation: 9, isOnOurs: true }]);
});

test('elements of other programs’ sets do not count, nor does another subsystem', () => {
  const changes = new RulesetChanges();
  for (const m of [message(NEW_ELEMENT, 'kube'), generation(7), { ...message(NEW_CHAIN, 'anka'), type: 0x0103 }, generation(8)])
    expect(changes.take(m)).toBeNull();
});

test('no message that is cut short throws', () => {
  const changes = new RulesetChanges();
  for (const { type, body } of [message(NEW_CHAIN, 'anka'), generation(7)])
    for (let length = 0; length < body.length; length++) changes.take({ type, body: Buffer.from(body.subarray(0, length)) });
});
