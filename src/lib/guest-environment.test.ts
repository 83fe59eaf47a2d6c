import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { environmentEntries, environmentLine, environmentOf } from './guest-environment.ts';

test('a file of variables: values are literal, a bad name is an error with its line', () => {
  expect(environmentEntries('# c\n\nA=1\r\nB="q" $X\nOWN\n', 'f')).toEqual(['A=1', 'B="q" $X', 'OWN']);
  expect(() => environmentEntries('A=1\n\nno name=2\n', 'f')).toThrow("--env-file 'f', line 3: 'no name' is not the name of a variable; use NAME=VALUE");
});

test('later values count, names alone take the value of this process', () => {
  expect([...environmentOf(['A=1', 'A=2', 'E=', 'X=a=b', 'OWN', 'NONE'], { OWN: 'o' })]).toEqual([
    ['A', '2'],
    ['E', ''],
    ['X', 'a=b'],
    ['OWN', 'o'],
  ]);
  expect(() => environmentOf(['1=x'], {})).toThrow("Invalid value for '-e': '1' is not the name of a variable.");
});

test('a shell gets every value as it is; inherited ones do not replace its own', () => {
  const odd = `it's "x" $HOME \\ \`id\` *\n\nend\n`;
  const line = environmentLine(new Map([['ODD', odd]]), { KEPT: 'host', NEW: 'n', 'BASH_FUNC_x%%': 'no' });
  expect(line).not.toContain('\n');
  const r = spawnSync('sh', ['-c', 'nl="\n"; IFS= read -r l; eval "$l"; printf "%s|" "$ODD" "$KEPT" "$NEW"'], {
    input: `${line}\n`,
    env: { PATH: process.env['PATH'], KEPT: 'guest' },
  });
  expect(String(r.stdout)).toBe(`${odd}|guest|n|`);
});
