#!/usr/bin/env node
/**
 * Runs a program of ours behind a fence: it opens what Node and its modules need, the folders that it keeps, and what
 * else is named, and nothing more of what its user may.
 *
 * Theory of operation: Node has threads before its first line of ours runs, and a fence is a thread's own. So it is put
 * up here, and then this process becomes the program (execve(2)), all of whose threads are behind it. Pid, descriptors
 * 0–2, user and rights stay. Limits: where the kernel has no Landlock, or this runs from source, the program runs in
 * this process, without a fence.
 */
import { mkdirSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { PACKAGE_ROOT } from '../../lib/package-root.ts';
import { becomeProgram, dropPrivilegeGain } from '../ffi/process.ts';
import { fence, systemOpenings } from './fence.ts';

/** Folders with packages that this file, or a package that it uses, can be told to load. */
function packages(): string[] {
  const own = createRequire(import.meta.url);
  const places = [own, createRequire(realpathSync(own.resolve('koffi'))), createRequire(realpathSync(own.resolve('pino')))];
  return places.flatMap((r) => r.resolve.paths('any') ?? []);
}

/** `fenced-main PROGRAM [--keep FOLDER | --read PATH]… -- ARGUMENT…` */
const [program, ...rest] = process.argv.slice(2) as [string, ...string[]];
const end = rest.indexOf('--');
const options = rest.slice(0, end);
const values = (name: string): string[] => options.filter((_, i) => options[i - 1] === name);
const keep = values('--keep');
for (const folder of keep) mkdirSync(folder, { recursive: true, mode: 0o700 });
process.argv = [process.execPath, program, ...rest.slice(end + 1)];

if (process.platform === 'linux' && program.endsWith('.js')) {
  const system = systemOpenings();
  const root = fileURLToPath(PACKAGE_ROOT);
  const read = [...system.read, ...packages(), join(root, 'dist'), join(root, 'package.json'), ...values('--read')];
  dropPrivilegeGain();
  if (fence({ ...system, read, keep })) becomeProgram(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], process.env);
}
await import(pathToFileURL(program).href);
