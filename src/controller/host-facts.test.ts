import { expect, test } from 'vitest';
import { defaultCapacity, hostFacts } from './host-facts.ts';

test.each([
  [8, 64, 8],
  [8, 16, 4],
  [4, 2, 1],
  [1, 64, 1],
])('%i CPUs and %i GiB run %i VMs', (cpus, gib, vms) => expect(defaultCapacity(cpus, gib * 1024 ** 3)).toBe(vms));

test('whole numbers, and shares from 0 to 1, as the exporter parses them', () => {
  const { cpuUse, ramUse, ...whole } = hostFacts('/');
  for (const share of [cpuUse, ramUse]) expect(share >= 0 && share <= 1).toBe(true);
  for (const n of Object.values(whole)) expect(Number.isSafeInteger(n) && n >= 0).toBe(true);
});
