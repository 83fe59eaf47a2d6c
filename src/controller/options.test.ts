import { describe, expect, test } from 'vitest';
import { checkOptions, forwardAddress, isLoopback, parseListen, type RawOptions } from './options.ts';

describe('--listen', () => {
  test.each([
    ['127.0.0.1:8090', { host: '127.0.0.1', port: 8090 }],
    ['localhost:0', { host: '127.0.0.1', port: 0 }],
    ['[::1]:8090', { host: '::1', port: 8090 }],
    ['0.0.0.0:65535', { host: '0.0.0.0', port: 65_535 }],
  ])('%s', (text, address) => expect(parseListen(text)).toEqual(address));
  test.each([
    '',
    '8090',
    ':8090',
    '127.0.0.1',
    '127.0.0.1:65536',
    '::1:8090',
    '[127.0.0.1]:80',
    'example.com:80',
    '127.0.0.1:80\n',
    '127.1:80',
    '[::1]',
    '256.0.0.1:1',
  ])("'%s' is refused", (text) => expect(() => parseListen(text)).toThrow('must be ADDRESS:PORT'));
});

test.each(['127.0.0.1', '127.9.9.9', '::1'])('%s is the loopback', (a) => expect(isLoopback(a)).toBe(true));
test.each(['0.0.0.0', '::', '128.0.0.1', '127.evil.example', '127.0.0.1.evil.example', ''])("'%s' is not", (a) => expect(isLoopback(a)).toBe(false));

describe('options together', () => {
  const check = (o: Partial<RawOptions>) => () => checkOptions({ listen: '127.0.0.1:8090', ...o });
  test('the loopback needs no token', () => expect(check({})).not.toThrow());
  test('any other address needs a token, or certificates of clients', () => {
    expect(check({ listen: '0.0.0.0:8090' })).toThrow('without a token everybody could use the controller there; give --token-file FILE');
    expect(check({ listen: '[::]:8090' })).toThrow('without a token');
    expect(check({ listen: '0.0.0.0:8090', tokenFile: 'f' })).not.toThrow();
    expect(check({ listen: '0.0.0.0:8090', cert: 'c', key: 'k', clientCa: 'a' })).not.toThrow();
    expect(check({ listen: '0.0.0.0:8090', cert: 'c', key: 'k' })).toThrow('without a token');
  });
  test('TLS needs both files', () => {
    expect(check({ cert: 'c' })).toThrow('--cert and --key belong together');
    expect(check({ key: 'k' })).toThrow('--cert and --key belong together');
    expect(check({ clientCa: 'a' })).toThrow('--client-ca needs TLS');
  });
  test('the address of the node is one', () => {
    expect(check({ nodeAddress: 'ci.example.com' })).not.toThrow();
    expect(check({ nodeAddress: 'a b' })).toThrow('--node-address');
  });
});

test.each([
  ['127.0.0.1', undefined, '127.0.0.1'],
  ['10.9.0.2', undefined, '10.9.0.2'],
  ['::1', undefined, '::1'],
  ['0.0.0.0', undefined, undefined],
  ['::', undefined, undefined],
  ['127.0.0.1', 'ci.example.com', undefined],
])('at %s, for clients sent to %s, forwarded ports listen at %s', (host, nodeAddress, address) =>
  expect(forwardAddress({ host, port: 1 }, nodeAddress)).toBe(address),
);
