import { expect, test } from 'vitest';
import { accessOfVmUser } from './kvm.ts';

test.each([
  ['everybody', 0o20666, 104, { kind: 'granted', group: null }],
  ['a group of its own', 0o20660, 104, { kind: 'granted', group: 104 }],
  ['root’s group', 0o20660, 0, { kind: 'denied' }],
  ['a group that may only read', 0o20640, 104, { kind: 'denied' }],
  ['nobody else', 0o20600, 0, { kind: 'denied' }],
])('/dev/kvm that is open to %s', (_whom, mode, gid, access) => expect(accessOfVmUser({ mode, gid })).toEqual(access));
