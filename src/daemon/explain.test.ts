import { expect, test } from 'vitest';
import { parseEndpoint } from './explain.ts';

const vm = (name: string): number | null => (name === 'vm1' ? 0xc0a84002 : null);

test.each([
  ['192.168.64.1', { address: 0xc0a84001, port: null }],
  ['192.168.64.1:53', { address: 0xc0a84001, port: 53 }],
  ['vm1', { address: 0xc0a84002, port: null }],
  ['vm1:22', { address: 0xc0a84002, port: 22 }],
  ['fe80::1', { address: 'fe80::1', port: null }],
  ['[FE80::1]:443', { address: 'fe80::1', port: 443 }],
] as const)('B93: endpoint %s', (text, expected) => expect(parseEndpoint(text, vm)).toEqual(expected));

test.each(['', ':80', '192.168.64.1:0', '192.168.64.1:65536', '192.168.64.1:-1', '192.168.064.1', 'vm2', '[::1', '[vm1]:80', 'vm1:22:22', '1.2.3.4/24'])(
  'B93: %s is no endpoint',
  (text) => expect(parseEndpoint(text, vm)).toBeNull(),
);
