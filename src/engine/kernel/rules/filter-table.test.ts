import { expect, test } from 'vitest';
import { parseFilter } from '../../../net/filter/parse-filter.ts';
import { type FilteredTap, removeFilterTable, renderFilterTable } from './filter-table.ts';

const TAP = 'anka00000001';
const LOCAL = { subnets: [{ base: 0xc0a84000, prefix: 24 }], host: ['10.9.0.2'], macs: [0x564545000001] };

/** The lines of a chain of the card. */
function chainOf(name: string, text: string, gateway: number | null = 0xc0a84001): string[] {
  const card: FilteredTap = { tap: TAP, rules: parseFilter(text), gateway };
  const table = renderFilterTable([card], LOCAL);
  const body = new RegExp(`  chain ${name}_${TAP} \\{\\n([^}]*(?:\\{[^}]*\\}[^}]*)*?)\\n  \\}`).exec(table)?.[1] ?? '';
  return body.split('\n').map((l) => l.trim());
}
const ruleLines = (direction: 'in' | 'out', text: string, gateway?: number | null): string[] =>
  chainOf(direction, text, gateway).filter((l) => l.includes('comment "filter line'));

test('B130: a rule is in the chains of its direction, in order, and ends with its verdict and its line', () => {
  const text = '# first\npass out proto tcp to 10.0.0.0/8 port 443\nblock in from 1.1.1.1\nblock any';
  expect(ruleLines('out', text)).toEqual([
    `meta l4proto { 6 } ip daddr 10.0.0.0/8 th dport 443 goto begin_out_${TAP} comment "filter line 2"`,
    'update @drop_filter { iifname counter } drop comment "filter line 4"',
  ]);
  expect(ruleLines('in', text)).toEqual([
    'ip saddr 1.1.1.1/32 update @drop_filter { oifname counter } drop comment "filter line 3"',
    'update @drop_filter { oifname counter } drop comment "filter line 4"',
  ]);
});

test('B130: a rule with ports is for TCP and UDP, and alone applies to DHCP', () => {
  const text = 'block any from port 20:30\nblock any';
  expect(ruleLines('out', text)[0]).toBe('meta l4proto { tcp, udp } th sport 20-30 update @drop_filter { iifname counter } drop comment "filter line 1"');
  expect(chainOf('dhcp_in', text)).toEqual([
    'meta l4proto { tcp, udp } th sport 20-30 update @drop_filter { oifname counter } drop comment "filter line 1"',
    `goto pass_${TAP}`,
  ]);
});

test('B130: local leaves the DNS of the gateway, and knows bridged VMs by their MAC addresses', () => {
  const conditions = (lines: string[]): string[] => lines.map((l) => l.replace(/ update @drop.*/, ''));
  expect(conditions(ruleLines('out', 'block local'))).toEqual([
    'ip daddr @local ip daddr != 192.168.64.1',
    'ip daddr 192.168.64.1 meta l4proto != { tcp, udp }',
    'ip daddr 192.168.64.1 meta l4proto { tcp, udp } th dport != 53',
  ]);
  expect(conditions(ruleLines('in', 'block local', null))).toEqual(['ip saddr @local', 'ether saddr @cards']);
});

test('B130: the table is replaced whole, also where it does not exist', () => {
  const table = renderFilterTable([], LOCAL);
  expect(table.startsWith(`${removeFilterTable()}\ntable bridge anka_filter {`)).toBe(true);
  expect(removeFilterTable()).toBe('table bridge anka_filter\ndelete table bridge anka_filter');
});
