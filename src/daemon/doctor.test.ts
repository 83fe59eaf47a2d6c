import { expect, test } from 'vitest';
import type { VmRow } from '../store/vms.ts';
import { nameFindings } from './doctor.ts';

const vm = (name: string): VmRow => ({ name, uuid: `id of ${name}` }) as VmRow;

test('B93: a VM that is not found by its name is reported, with the command that renames it', () => {
  expect(nameFindings([vm('vm1'), vm('hosts'), vm('a.b')])).toMatchObject([{ id: 'names', level: 'ok' }]);
  expect(nameFindings([vm('vm1'), vm('HOST'), vm('my.localhost'), vm('web..x')]).map((f) => [f.level, f.remedy])).toEqual([
    ['warning', "run 'anka modify id of HOST set name NEW_NAME'"],
    ['warning', "run 'anka modify id of my.localhost set name NEW_NAME'"],
    ['warning', "run 'anka modify id of web..x set name NEW_NAME'"],
  ]);
});
