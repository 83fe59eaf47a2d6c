import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AnkaError } from '../../lib/errors.ts';
import { MAX_FILTER_BYTES, MAX_FILTER_RULES } from './filter-rule.ts';
import { parseFilter } from './parse-filter.ts';

const ANY = { subnet: null, ports: null };
const port = (n: number) => ({ first: n, last: n });
const host = (base: number) => ({ base, prefix: 32 });

// the forms of Anka's own pages
test.each([
  ['block out to 1.1.1.1 from any', 'block', 'out', ANY, { subnet: host(0x01010101), ports: null }],
  ['block out to 1.1.1.1 port 53', 'block', 'out', ANY, { subnet: host(0x01010101), ports: port(53) }],
  ['block in to port 22', 'block', 'in', ANY, { subnet: null, ports: port(22) }],
  ['block out from port 68 to port 67', 'block', 'out', { subnet: null, ports: port(68) }, { subnet: null, ports: port(67) }],
  ['block in from any port 67 to any port 68', 'block', 'in', { subnet: null, ports: port(67) }, { subnet: null, ports: port(68) }],
  ['block any from port 67 to port 68', 'block', 'any', { subnet: null, ports: port(67) }, { subnet: null, ports: port(68) }],
  ['block any', 'block', 'any', ANY, ANY],
  ['block local', 'block', 'local', ANY, ANY],
  ['pass out from all', 'pass', 'out', ANY, ANY],
  ['pass in from 10.20.30.40', 'pass', 'in', { subnet: host(0x0a141e28), ports: null }, ANY],
  // and of ipf.conf(5)
  ['Pass  OUT\tquick all # all', 'pass', 'out', ANY, ANY],
  ['pass out quick proto tcp from any to 10.0.0.9/8 port = 443 keep state', 'pass', 'out', ANY, { subnet: { base: 0x0a000000, prefix: 8 }, ports: port(443) }],
  ['block any to any port=8000:8080', 'block', 'any', ANY, { subnet: null, ports: { first: 8000, last: 8080 } }],
  ['block any from 0.0.0.0/0', 'block', 'any', { subnet: { base: 0, prefix: 0 }, ports: null }, ANY],
])('B130: %s', (text, action, direction, from, to) => {
  expect(parseFilter(text)).toMatchObject([{ line: 1, action, direction, from, to }]);
});

test('B130: protocols', () => {
  const of = (word: string) => parseFilter(`block any proto ${word}`)[0]?.protocols;
  expect(['tcp', 'udp', 'tcp/udp', 'icmp', '47', '0'].map(of)).toEqual([[6], [17], [6, 17], [1], [47], [0]]);
  expect(parseFilter('block any')[0]?.protocols).toEqual([]);
});

test('B130: comments, empty lines and line ends; a rule knows its line and its text', () => {
  const text = '# first\r\n\r\n  block in  # ssh\r\n\tpass out\r\n';
  expect(parseFilter(text).map((r) => [r.line, r.text])).toEqual([
    [3, 'block in'],
    [4, 'pass out'],
  ]);
  expect(parseFilter('')).toEqual([]);
  expect(parseFilter('# nothing\n\n')).toEqual([]);
});

test.each([
  ['deny in', "line 2, 'deny in': 'deny': a rule begins with block or pass"],
  ['block', "line 2, 'block': in, out, any or local must follow block"],
  ['pass sideways', "line 2, 'pass sideways': 'sideways': in, out, any or local must follow pass"],
  ['block in from', "an address, any, or port must follow 'from'"],
  ['block in to', "an address, any, or port must follow 'to'"],
  ['block in from 1.2.3', "'1.2.3' is no address"],
  ['block in from 1.2.3.4/33', "'1.2.3.4/33' is no address"],
  ['block in from 1.2.3.4/8/8', 'is no address'],
  ['block in from example.org', "'example.org' is no address"],
  ['block in from fe80::1', "'fe80::1': filters take IPv4 addresses only"],
  ['block in from any port', "a port from 1 to 65535 must follow 'port'"],
  ['block in to port 0', "'0' is no port"],
  ['block in to port 65536', "'65536' is no port"],
  ['block in to port ssh', "'ssh' is no port"],
  ['block in to port 9:8', "'9:8' is an empty range of ports; use 8:9"],
  ['block in to port 22 port 23', "'port' is not expected here"],
  ['block in from any from any', "'from' stands twice"],
  ['block in to any to any', "'to' stands twice"],
  ['block in proto', "must follow 'proto'"],
  ['block in proto sctp', "'sctp' is no protocol"],
  ['block in proto 256', "'256' is no protocol"],
  ['block in proto constructor', "'constructor' is no protocol"],
  ['block in proto icmp to port 22', 'only tcp and udp have ports'],
  ['block in keep', "'state' must follow 'keep'"],
  ['block in log', "'log' is not expected here; a rule is (block|pass)"],
  ['block in \u001b[2J', 'it has control characters'],
  ['# \u001b[2J', 'it has control characters'],
])('B130: %j is refused, with its line', (line, message) => {
  const read = () => parseFilter(`pass out\n${line}`);
  expect(read).toThrow(AnkaError);
  expect(read).toThrow('network filter: line 2');
  expect(read).toThrow(message);
});

test('B130: bounds: rules, bytes, and what a message repeats', () => {
  const lines = (n: number) => 'block in\n'.repeat(n);
  expect(parseFilter(lines(MAX_FILTER_RULES))).toHaveLength(MAX_FILTER_RULES);
  expect(() => parseFilter(lines(MAX_FILTER_RULES + 1))).toThrow(`line ${MAX_FILTER_RULES + 1}: a filter has at most`);
  expect(() => parseFilter(`#${'é'.repeat(MAX_FILTER_BYTES / 2)}`)).toThrow('larger than');
  for (const text of ['x'.repeat(30_000), `block in from ${'x'.repeat(30_000)}`]) {
    try {
      parseFilter(text);
      expect.unreachable();
    } catch (cause) {
      expect((cause as Error).message.length).toBeLessThan(400);
    }
  }
});

test('B130: any text is read or refused with a line, and quickly', () => {
  const word = fc.constantFrom(
    'block',
    'pass',
    'in',
    'out',
    'any',
    'local',
    'from',
    'to',
    'port',
    'proto',
    'tcp',
    '=',
    '1.2.3.4',
    '1.2.3.4/5',
    '22',
    '9:10',
    'quick',
    'keep',
    'state',
    '#',
    '\n',
    '\r',
    '::1',
  );
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 200 }),
    fc.array(word, { maxLength: 30 }).map((w) => w.join(' ')),
  );
  fc.assert(
    fc.property(text, (t) => {
      try {
        for (const r of parseFilter(t)) {
          expect(r.line).toBeGreaterThan(0);
          // its text alone is the same rule
          expect(parseFilter(r.text)).toMatchObject([{ ...r, line: 1 }]);
        }
      } catch (cause) {
        expect(cause).toBeInstanceOf(AnkaError);
        expect((cause as Error).message).toMatch(/^network filter: line \d+/);
        expect((cause as Error).message).not.toMatch(/[\u0000-\u001f]/);
      }
    }),
    { numRuns: 1000 },
  );
});
