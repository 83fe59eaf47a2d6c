#!/usr/bin/env node
/**
 * Runs one of our programs with file access restricted to what Node and its modules need and to the named paths.
 *
 * Theory of operation: Node starts threads before our first line runs, and Landlock restricts only the calling thread.
 * So this process restricts itself and then becomes the program (execve(2)), whose threads all inherit the restriction.
 * Pid, descriptors 0–2 and those that are named, user and capabilities stay.
 *
 * Limits: if Landlock is not available, or this runs from source, the program runs in this process, unrestricted.
 */
import '../no-debugger.ts';
import { mkdirSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { PACKAGE_ROOT } from '../../lib/package-root.ts';
import { becomeProgram, dropPrivilegeGain } from '../ffi/process.ts';
import { fence, systemAccess } from './fence.ts';

/** Directories of the packages that this file, or koffi, can load. */
function packages(): string[] {
  const own = createRequire(import.meta.url);
  const resolvers = [own, createRequire(realpathSync(own.resolve('koffi')))];
  return resolvers.flatMap((r) => r.resolve.paths('any') ?? []);
}

/** `fenced-main PROGRAM [--write DIRECTORY | --tree DIRECTORY | --read PATH | --descriptor N]… -- ARGUMENT…` */
const [program, ...rest] = process.argv.slice(2) as [string, ...string[]];
const end = rest.indexOf('--');
const options = rest.slice(0, end);
const values = (name: string): string[] => options.filter((_, i) => options[i - 1] === name);
const write = values('--write');
for (const directory of write) mkdirSync(directory, { recursive: true, mode: 0o700 });
process.argv = [process.execPath, program, ...rest.slice(end + 1)];

if (process.platform === 'linux' && program.endsWith('.js')) {
  const system = systemAccess();
  const root = fileURLToPath(PACKAGE_ROOT);
  const read = [...system.read, ...packages(), join(root, 'dist'), join(root, 'package.json'), ...values('--read')];
  dropPrivilegeGain();
  if (fence({ ...system, read, write, tree: values('--tree') }))
    becomeProgram(process.execPath, [process.execPath, ...process.execArgv, ...process.argv.slice(1)], process.env, values('--descriptor').map(Number));
}
await import(pathToFileURL(program).href);
