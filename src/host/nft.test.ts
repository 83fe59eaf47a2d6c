import { expect, test } from 'vitest';
import { withoutDynamicElements } from './nft.ts';

test('only the elements of dynamic sets are removed from a table', () => {
  const table = (ours: string, written: string): string => `table bridge anka {
	set cards {
		type ifname
		elements = { ${ours} }
	}

	set names {
		type ether_addr
		size 65535
		flags dynamic${written}
	}

	set claim {
		type ifname . ipv4_addr
		size 4096
		flags dynamic,timeout
		timeout 10m${written}
	}

	chain guard {
		iifname { "a", "b" } accept
	}
}`;
  const written = '\n\t\telements = { 56:45:45:00:00:01 limit rate over 10/second burst 50 packets,\n\t\t\t     56:45:45:00:00:02 timeout 10m }';
  expect(withoutDynamicElements(table('"a"', written))).toBe(withoutDynamicElements(table('"a"', '')));
  expect(withoutDynamicElements(table('"a"', written))).not.toContain('56:45');
  expect(withoutDynamicElements(table('"a"', ''))).not.toBe(withoutDynamicElements(table('"b"', '')));
});
