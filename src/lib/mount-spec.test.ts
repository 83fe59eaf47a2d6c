import { expect, test } from 'vitest';
import { checkMountName, parseMount } from './mount-spec.ts';

test.each([
  ['/srv/data', { directory: '/srv/data', readOnly: false }],
  ['.', { directory: '.', readOnly: false }],
  ['/srv/data:in', { directory: '/srv/data', name: 'in', readOnly: false }],
  ['/srv/data:in:ro', { directory: '/srv/data', name: 'in', readOnly: true }],
  ['/srv/data:in:rw', { directory: '/srv/data', name: 'in', readOnly: false }],
  ['/srv/data:ro', { directory: '/srv/data', readOnly: true }],
  ['/srv/data::ro', { directory: '/srv/data', readOnly: true }],
  ['/srv/data:', { directory: '/srv/data', readOnly: false }],
  ['/srv/a:b/c', { directory: '/srv/a:b/c', readOnly: false }],
  ['/srv/a:b/c:d', { directory: '/srv/a:b/c', name: 'd', readOnly: false }],
])('%s', (text, spec) => expect(parseMount(text)).toEqual(spec));

test.each(['', ':in', ':in:ro', '/srv:a:b'])("'%s' is refused", (text) => expect(() => parseMount(text)).toThrow("Invalid value for 'DIR'"));

test.each(['a b', '-x', '.', '..', '.hidden', '12', 'a/b', "a'b", 'a\n', 'x'.repeat(65), ''])("the name '%s' is refused", (name) =>
  expect(() => checkMountName(name)).toThrow('cannot be a name in the guest'),
);
test.each(['a', 'v1.2', 'x_y-z', '1a', 'x'.repeat(64)])('the name %s is taken', (name) => checkMountName(name));
