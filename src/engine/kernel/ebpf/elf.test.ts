import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { PACKAGE_ROOT } from '../../../lib/package-root.ts';
import { ElfFile } from './elf.ts';
import { EbpfObject } from './object.ts';

const fileOf = (name: string): ElfFile => new ElfFile(readFileSync(new URL(`assets/bpf/${name}.bpf.o`, PACKAGE_ROOT)), name);

describe('the committed objects', () => {
  test.each([
    ['mac-translate', 'tc/from_guest', 'from_guest'],
    ['mac-translate', 'tc/to_guest', 'to_guest'],
    ['no-touch-bridge', 'tc/nic_in', 'anka_nic_in'],
    ['no-touch-bridge', 'tc/port_in', 'anka_port_in'],
    ['vlan-tag', 'tc/to_guest', 'to_guest'],
  ])('%s has in %s the function %s, under the license of the package', (object, section, name) => {
    const file = fileOf(object);
    expect(file.functionIn(section)).toBe(name);
    expect(file.section('license').toString()).toBe('Apache-2.0\0');
  });

  test('programs refer to their constants, and to nothing else', () => {
    expect(fileOf('mac-translate').references('tc/from_guest')).toEqual([]);
    expect(fileOf('vlan-tag').references('tc/to_guest')).toEqual([{ offset: 0x30, section: '.rodata', value: 0 }]);
    expect(
      fileOf('no-touch-bridge')
        .references('tc/port_in')
        .map((r) => r.offset),
    ).toEqual([0xc8, 0x3f8, 0x430, 0x760]);
  });

  test('a missing section or function is named', () => {
    expect(() => fileOf('vlan-tag').section('tc/none')).toThrow('vlan-tag has no section tc/none');
    expect(() => fileOf('vlan-tag').functionIn('.rodata')).toThrow('vlan-tag has no function in its section .rodata');
  });
});

test('a program is loaded with the constants of its copy', () => {
  const config = Buffer.from([7, 0, 0, 0]);
  const { name, instructions, data, references } = new EbpfObject('vlan-tag').setConfig('ANKAVLN', config).program('tc/from_guest');
  expect({ name, length: instructions.length, references }).toEqual({ name: 'from_guest', length: 0x70, references: [{ instruction: 0x18, value: 0 }] });
  expect(data?.subarray(0, 12)).toEqual(Buffer.concat([Buffer.from('ANKAVLN\0'), config]));
});
