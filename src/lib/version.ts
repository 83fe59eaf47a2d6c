/** This program's version, from its package.json. */
import { readFileSync } from 'node:fs';
import { PACKAGE_ROOT } from './package-root.ts';

export function version(): string {
  return (JSON.parse(readFileSync(new URL('package.json', PACKAGE_ROOT), 'utf8')) as { version: string }).version;
}
