import { expect, test } from 'vitest';
import { AnkaError, ankaError, wrap } from './errors.ts';

const systemError = (code: string): Error => Object.assign(new Error(`${code}: failed, open 'x'`), { code });

test.each([
  ['ENOSPC', 'diskFull', 'free some space'],
  ['EDQUOT', 'diskFull', 'free some space'],
  ['EFBIG', 'diskFull', 'ulimit -f'],
  ['EROFS', 'internal', 'writable'],
  ['EMFILE', 'internal', 'ulimit -n'],
  ['ENFILE', 'internal', 'fs.file-max'],
])('%s names what to do', (code, kind, remedy) => {
  const error = ankaError(systemError(code));
  expect(error.kind).toBe(kind);
  expect(error.message).toContain(`${code}: failed, open 'x'; `);
  expect(error.message).toContain(remedy);
});

test('any other error keeps its message', () => {
  expect(ankaError(systemError('EPERM'))).toMatchObject({ kind: 'internal', message: "EPERM: failed, open 'x'" });
  expect(ankaError('text')).toMatchObject({ kind: 'internal', message: 'text' });
  const own = new AnkaError('usage', 'wrong');
  expect(ankaError(own)).toBe(own);
});

test('wrap keeps kind and remedy, and has a kind for errors without one', () => {
  expect(wrap('writing x', systemError('ENOSPC'), 'network')).toMatchObject({
    kind: 'diskFull',
    message: expect.stringMatching(/^writing x: ENOSPC: .*free some space/),
  });
  expect(wrap('asking x', systemError('EPERM'), 'network').kind).toBe('network');
  expect(wrap('asking x', new AnkaError('internal', 'wrong'), 'network')).toMatchObject({ kind: 'internal', message: 'asking x: wrong' });
});
