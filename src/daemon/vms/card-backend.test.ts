import { expect, test } from 'vitest';
import { type CardBackend, type CardBackendFacts, chooseCardBackend } from './card-backend.ts';

const facts: CardBackendFacts = { engine: 'kernel', accel: 'kvm', controller: 'virtio-net', cpus: 4, vhostRefusal: null };
const MISSING = 'this host has no /dev/vhost-net';
const plain: CardBackend = { queues: 1, driver: 'qemu', reason: null };

test.each<[string, Partial<CardBackendFacts>, CardBackend]>([
  ['KVM and vhost-net: the kernel, and a pair of queues for each CPU', {}, { queues: 4, driver: 'vhost', reason: null }],
  ['one CPU', { cpus: 1 }, { queues: 1, driver: 'vhost', reason: null }],
  ['the most CPUs', { cpus: 64 }, { queues: 64, driver: 'vhost', reason: null }],
  ['no vhost-net', { vhostRefusal: MISSING }, { queues: 4, driver: 'qemu', reason: MISSING }],
  ['no KVM', { accel: 'tcg' }, { queues: 4, driver: 'qemu', reason: 'guests are emulated, without KVM' }],
  ['neither: the device is named', { accel: 'tcg', vhostRefusal: MISSING }, { queues: 4, driver: 'qemu', reason: MISSING }],
  ['a card with one queue', { controller: 'e1000' }, plain],
  ['a card with one queue, no vhost-net: nothing to report', { controller: 'e1000', vhostRefusal: MISSING }, plain],
  ['the user engine', { engine: 'user' }, plain],
  ['the user engine, no KVM: nothing to report', { engine: 'user', accel: 'tcg', vhostRefusal: MISSING }, plain],
])('%s', (_title, change, expected) => {
  expect(chooseCardBackend({ ...facts, ...change })).toEqual(expected);
});
