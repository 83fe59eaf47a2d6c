import { expect, test } from 'vitest';
import { cloneName, expandName, isCloneName, numberedName } from './vm-name.ts';

const VALUES = { templateName: 'debian-12', templateId: '0d6cbb77-9c3a-4f1d-8a3d-5f4d7b0f8c11', nodeName: 'host.example', now: 1_700_000_000_000 };
const ID = '7b0f8c11-9c3a-4f1d-8a3d-5f4d0d6cbb77';

test.each([
  ['$template_name-$node_name-$ts', 'debian-12-host.example-1700000000000'],
  ['$template_id', VALUES.templateId],
  ['ci_$ts', 'ci_1700000000000'],
  ['$ts$ts', '17000000000001700000000000'],
  ['$template_names', 'template_names'],
  ['$unknown', 'unknown'],
  ['iOS build (nightly)/é', 'iOS-build-nightly-'],
  ['../../etc/passwd', 'etc-passwd'],
  ['--force', 'force'],
  ['...', 'vm'],
  ['', 'vm'],
  ["a'; rm -rf /; $(reboot)", 'a-rm--rf-reboot-'],
])('%s becomes %s', (template, name) => expect(expandName(template, VALUES)).toBe(name));

test('a value is not expanded again, nor a replacement pattern of it', () =>
  expect(expandName('$template_name', { ...VALUES, templateName: '$ts$&' })).toBe('ts-'));

test('a long name keeps its end', () => {
  const name = expandName(`${'x'.repeat(100)}-$ts`, VALUES);
  expect(name).toHaveLength(63);
  expect(name).toMatch(/^x+-1700000000000$/);
});

test('a name that is taken gets digits of the id, within the limit', () => {
  expect(numberedName('ci', ID)).toBe('ci-7b0f8c11');
  expect(numberedName('x'.repeat(63), ID)).toBe(`${'x'.repeat(54)}-7b0f8c11`);
});

test('the name of a clone holds all of the id', () => {
  expect(cloneName(ID)).toBe('instance-7b0f8c119c3a4f1d8a3d5f4d0d6cbb77');
  expect(isCloneName(cloneName(ID))).toBe(true);
  expect(isCloneName('instance-1')).toBe(false);
});
