import { expect, test } from 'vitest';
import { parseHostsFile } from './hosts-file.ts';

const FILE = `# comment
127.0.0.1 localhost loop.test
127.0.1.1	Box.lan box
::1 localhost ip6-localhost ip6-loopback
10.1.2.3 nas.lan NAS  # storage
10.1.2.4 nas.lan
2001:DB8::5 nas.lan six
fe80::1 link.test
fe80::1%eth0 zone.test
nonsense bad.test
10.9.9.9 -bad under_score. .dot a..b ${'x'.repeat(64)}
`;

test('names with all their addresses, in lower case; none for loopback, link-local and malformed ones', () => {
  const { names, own, canonical } = parseHostsFile(FILE, 'box');
  expect(names).toEqual([
    { name: 'nas.lan', ipv4: [0x0a010203, 0x0a010204], ipv6: ['2001:db8::5'] },
    { name: 'nas', ipv4: [0x0a010203], ipv6: [] },
    { name: 'six', ipv4: [], ipv6: ['2001:db8::5'] },
    { name: 'under_score', ipv4: [0x0a090909], ipv6: [] },
  ]);
  expect(own, 'names on the line of the host itself').toEqual(['box', 'box.lan']);
  expect(canonical.get('2001:db8::5')).toBe('nas.lan');
});

test('the host keeps an address that the file gives its name', () => {
  const { names, own } = parseHostsFile('10.0.0.7 box.lan box\n', 'box');
  expect(names.map((n) => n.name)).toEqual(['box.lan', 'box']);
  expect(own).toEqual([]);
  expect(parseHostsFile('', 'localhost').own).toEqual([]);
});

test('bounded: 10,000 names, and 32 addresses of each', () => {
  const lines = Array.from({ length: 20_000 }, (_, i) => `10.0.${i >> 8}.${i & 255} n${i} many`).join('\n');
  const { names } = parseHostsFile(lines, 'box');
  expect(names).toHaveLength(10_000);
  expect(names.find((n) => n.name === 'many')?.ipv4).toHaveLength(32);
});
