import { expect, test } from 'vitest';
import { grid, pairs } from './grid.ts';

test('B61, B80: the table of the seed page, byte for byte', () => {
  const seed = `+--------------+-------------+------------+---------+-----------+
|   guest_port |   host_port | protocol   | name    | host_ip   |
+==============+=============+============+=========+===========+
|           22 |       10001 | tcp        | ssh     | 0.0.0.0   |
+--------------+-------------+------------+---------+-----------+`;
  expect(grid(['guest_port', 'host_port', 'protocol', 'name', 'host_ip'], [[22, 10001, 'tcp', 'ssh', '0.0.0.0']])).toBe(seed);
});

test('B80: columns grow with their cells; an empty table keeps its header', () => {
  expect(grid(['name'], [['a-rather-long-name']])).toBe(`+--------------------+
| name               |
+====================+
| a-rather-long-name |
+--------------------+`);
  expect(grid(['name'], [])).toBe('+---------+\n| name    |\n+=========+');
  expect(pairs([['ip', '1.2.3.4']])).toBe('+---------+---------+\n| ip      | 1.2.3.4 |\n+---------+---------+');
});
