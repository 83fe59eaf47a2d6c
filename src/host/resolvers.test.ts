import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseResolvConf, readResolverFiles, resolverAnswers, withNamedZone } from './resolvers.ts';

test('a resolver that cannot be connected to does not answer, and raises nothing', async () => {
  // an IPv6 zone that does not exist; a multicast address, which a UDP socket connects to only with a route; no address
  const unreachable = ['fe80::53%99', '255.255.255.255', 'not an address'];
  expect(await Promise.all(unreachable.map((server) => resolverAnswers(server, 200)))).toEqual([false, false, false]);
});

test('resolv.conf: servers with zones, the last search list, and options; everything else is ignored', () => {
  const text = `# nameserver 9.9.9.9
nameserver 192.168.64.1
nameserver 127.0.0.53
  nameserver\tfe80::53%eth0 # zone
nameserver 127.0.0.53
nameserver ::1
nameserver resolver.example
nameserver
domain first.example
search Corp.Example. example.net -bad example.net ${'x'.repeat(64)}.test
options edns0 timeout:1 rotate attempts:3
options ndots:5 timeout:nonsense`;
  expect(parseResolvConf(text, ['192.168.64.1'])).toEqual({
    servers: ['127.0.0.53', 'fe80::53%eth0', '::1'],
    search: ['corp.example', 'example.net'],
    rotate: true,
    timeoutSeconds: 1,
    attempts: 3,
  });
  const many = Array.from({ length: 9 }, (_, i) => `nameserver 10.0.0.${i}\n`).join('');
  expect(parseResolvConf(many).servers, 'the first six').toHaveLength(6);
  expect(parseResolvConf('')).toEqual({ servers: [], search: [], rotate: false });
});

test('a numeric zone becomes the name of its interface; everything else is kept', () => {
  const address = { address: 'fe80::1', netmask: 'ffff:ffff:ffff:ffff::', mac: '00:00:00:00:00:00', internal: false, cidr: null } as const;
  const interfaces = { lo: [], en0: [{ ...address, family: 'IPv6' as const, scopeid: 2 }], en1: undefined };
  const named = (server: string): string => withNamedZone(server, () => interfaces);
  expect(named('fe80::53%2')).toBe('fe80::53%en0');
  for (const server of ['fe80::53%3', 'fe80::53%en0', 'fe80::53%2a', '::1', '127.0.0.53']) expect(named(server)).toBe(server);
});

test('a missing file, a dangling link, a loop and a directory read as empty', () => {
  const dir = mkdtempSync(join(tmpdir(), 'anka-resolv-'));
  const path = (name: string): string => join(dir, name);
  symlinkSync(path('nowhere'), path('dangling'));
  symlinkSync(path('loop'), path('loop'));
  for (const name of ['missing', 'dangling', 'loop', '.'])
    expect(readResolverFiles({ resolvConf: path(name), hosts: path(name) })).toEqual({ resolvConf: '', hosts: '' });
  writeFileSync(path('file'), 'nameserver 10.0.0.1\n');
  symlinkSync(path('file'), path('link'));
  expect(readResolverFiles({ resolvConf: path('link'), hosts: path('file') }).resolvConf).toBe('nameserver 10.0.0.1\n');
  rmSync(dir, { recursive: true });
});
