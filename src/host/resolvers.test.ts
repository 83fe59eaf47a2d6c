import { expect, test } from 'vitest';
import { resolverAnswers } from './resolvers.ts';

test('a resolver that cannot be connected to does not answer, and raises nothing', async () => {
  // an IPv6 zone that does not exist; a multicast address, which a UDP socket connects to only with a route; no address
  const unreachable = ['fe80::53%99', '255.255.255.255', 'not an address'];
  expect(await Promise.all(unreachable.map((server) => resolverAnswers(server, 200)))).toEqual([false, false, false]);
});
