import { expect, test } from 'vitest';
import { parsePacket } from './explain.ts';

test.each([
  ['to 1.2.3.4', { to: '1.2.3.4', protocol: 'tcp' }],
  ['to 1.2.3.4:53 udp', { to: '1.2.3.4:53', protocol: 'udp' }],
  ['from vm2 to vm1 icmp', { from: 'vm2', to: 'vm1', protocol: 'icmp' }],
  ['udp to vm1:53', { to: 'vm1:53', protocol: 'udp' }],
])('B93: %s', (line, expected) => expect(parsePacket(line.split(' '))).toEqual(expected));

test.each([
  ['1.2.3.4', "Missing 'to ADDR[:PORT]', such as 'to 198.51.100.1:443'."],
  ['to', "Missing address after 'to'."],
  ['to 1.2.3.4 gre', "Invalid value for protocol: 'gre' is not one of 'tcp', 'udp', 'icmp', 'other'."],
  ['to 1.2.3.4 tcp now', 'Got unexpected extra argument (now).'],
])('B84: %s is a usage error', (line, message) => expect(() => parsePacket(line.split(' '))).toThrow(message));
