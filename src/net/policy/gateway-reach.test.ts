import { expect, test } from 'vitest';
import { parseIpv4 } from '../../wire/address.ts';
import { answersDns, type GatewayNetwork, gatewayReach } from './gateway-reach.ts';

const ip = (text: string): number => parseIpv4(text) as number;
const shared: GatewayNetwork = { network: { name: 'shared', subnet: { base: ip('192.168.64.0'), prefix: 24 } } };
const host: GatewayNetwork = { network: { name: 'host', subnet: { base: ip('192.168.128.0'), prefix: 24 } } };
const CLOUDS = ['169.254.169.254', '169.254.169.253', '169.254.170.2', '168.63.129.16', '100.100.100.200', '192.0.0.192'];

test.each(CLOUDS)('B92: the metadata service %s is closed, even where the host itself has the address', (text) => {
  for (const isHosts of [false, true]) {
    expect(gatewayReach(shared, false, ip(text), isHosts)).toBe('metadata');
    expect(gatewayReach(host, false, ip(text), isHosts)).toBe('metadata');
    expect(gatewayReach(shared, true, ip(text), isHosts)).toBe('metadata');
  }
});

test.each(CLOUDS)('B92: %s is opened by a setting, for shared only', (text) => {
  expect(gatewayReach({ ...shared, metadata: true }, false, ip(text), false)).toBe('outside');
  expect(gatewayReach({ ...shared, metadata: true }, false, ip(text), true)).toBe('host');
  expect(gatewayReach({ ...shared, metadata: true }, true, ip(text), true)).toBe('isolated');
  expect(gatewayReach({ ...host, metadata: true }, false, ip(text), false)).toBe('prohibited');
});

test('link-local addresses are not forwarded (RFC 3927 7), except to the host itself', () => {
  for (const metadata of [false, true]) expect(gatewayReach({ ...shared, metadata }, false, ip('169.254.7.7'), false)).toBe('prohibited');
  expect(gatewayReach(shared, false, ip('169.254.7.7'), true)).toBe('host');
  expect(gatewayReach(shared, false, ip('169.253.7.7'), false)).toBe('outside');
});

test('B15: the network answers DNS at its gateway, and on the host network at every address of the host', () => {
  expect(answersDns(shared, ip('192.168.64.1'), false, 53)).toBe(true);
  expect(answersDns(shared, ip('10.9.0.2'), true, 53)).toBe(false);
  expect(answersDns(host, ip('10.9.0.2'), true, 53)).toBe(true);
  expect(answersDns(host, ip('10.9.0.1'), false, 53)).toBe(false);
  expect(answersDns(host, ip('192.168.128.1'), false, 54)).toBe(false);
});
