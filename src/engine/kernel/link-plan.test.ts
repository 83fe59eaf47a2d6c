import { describe, expect, test } from 'vitest';
import type { Link } from '../../host/links.ts';
import type { DesiredNic, DesiredState } from '../engine.ts';
import { planLinks, planTaps } from './link-plan.ts';
import { tapName } from './names.ts';

const ID = '00000001-0000-4000-8000-000000000000';
const TAP = tapName(ID);
const OBJECT = `nic:${ID}`;
const LABELS = { change: 'set', name: TAP, set: { group: 24942, alias: `anka:v1:nic=${ID}` } };
const REMOVAL = [{ change: 'delete', name: TAP }];

function desired(queues: number): DesiredState {
  const rest = { outsideMac: 1, insideMac: 1, mtu: 1500, isolated: false, ownerUid: 7, vhost: false, rules: [] };
  const nic: DesiredNic = { id: ID, vmName: 'vm1', type: 'shared', queues, ...rest };
  return { networks: [], nics: [nic], dnsServers: [] };
}

function tap(multiQueue: boolean, isOpen: boolean): Link {
  return { name: TAP, kind: 'tun', tun: { multiQueue, isOpen } } as Link;
}

const created = (multiQueue: boolean, before: object[] = []): object => ({
  object: OBJECT,
  changes: [...before, { change: 'add tap', name: TAP, owner: 7, multiQueue }, LABELS],
});

describe('taps', () => {
  test('a missing tap is created for the queues of its card', () => {
    expect(planTaps(desired(1), [])).toEqual([created(false)]);
    expect(planTaps(desired(2), [])).toEqual([created(true)]);
  });

  test('one that fits stays, open or not', () => {
    for (const isOpen of [false, true]) {
      expect(planTaps(desired(1), [tap(false, isOpen)])).toEqual([]);
      expect(planTaps(desired(2), [tap(true, isOpen)])).toEqual([]);
      expect(planTaps(desired(64), [tap(true, isOpen)])).toEqual([]);
    }
  });

  test('B90: one that was renamed while a guest uses it gets its name again, and is not removed meanwhile', () => {
    const renamed = (isOpen: boolean): Link => ({ ...tap(false, isOpen), name: 'other', alias: `anka:v1:nic=${ID}`, group: 24942 });
    const back = [
      { change: 'set', name: 'other', set: { up: false } },
      { change: 'set', name: 'other', set: { name: TAP } },
    ];
    expect(planTaps(desired(1), [renamed(true)])).toEqual([{ object: OBJECT, changes: back }]);
    expect(planTaps(desired(1), [renamed(true), tap(false, false)])).toEqual([{ object: OBJECT, changes: [...REMOVAL, ...back] }]);
    expect(planTaps(desired(1), [renamed(true), tap(false, true)])).toEqual([]);
    expect(planTaps(desired(1), [renamed(false)])).toEqual([created(false)]);
    const context = { addresses: new Map(), routes: [], attachments: new Map(), detached: new Set<string>() };
    expect(planLinks(desired(1), { ...context, links: [renamed(true)] })).toEqual([]);
    expect(planLinks(desired(1), { ...context, links: [renamed(false)] })).toEqual([{ object: 'link:other', changes: [{ change: 'delete', name: 'other' }] }]);
  });

  test('one for another number of queues is created anew when no guest has it open', () => {
    expect(planTaps(desired(2), [tap(false, false)])).toEqual([created(true, REMOVAL)]);
    expect(planTaps(desired(1), [tap(true, false)])).toEqual([created(false, REMOVAL)]);
    expect(planTaps(desired(2), [tap(false, true)])).toEqual([]);
    expect(planTaps(desired(1), [tap(true, true)])).toEqual([]);
  });

  test('an interface of another kind with its name stays', () => {
    const veth = { name: TAP, kind: 'veth', tun: null } as Link;
    expect(planTaps(desired(2), [veth])).toEqual([]);
  });
});
