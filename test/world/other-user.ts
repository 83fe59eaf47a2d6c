/** What another local user can do on the host: neither root, nor the user that the ordinary suites run as. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import type { Namespace } from './world.ts';

const OTHER = 65_533;

/** A program as that user, for a shell. */
export const asOther = (words: string, user = OTHER): string => `setpriv --reuid=${user} --regid=${user} --clear-groups --no-new-privs ${words}`;

/** Unix sockets that listen below a directory. `ss` shows where they were created; root has moved a card's since. */
export function unixSockets(ns: Namespace, below: string): string[] {
  const paths = ns
    .run('ss -Hlx')
    .split('\n')
    .map((l) => l.trim().split(/\s+/)[4] ?? '');
  return paths
    .filter((p) => p.startsWith(`${below}/`))
    .map((p) => (existsSync(p) ? p : p.replace('/in/', '/')))
    .sort();
}

/** Regular files in a directory and in those below it. */
export function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

const CONNECT = `
  for (const path of process.argv.slice(1)) {
    const s = require('net').connect(path);
    s.on('connect', () => { console.log(path, 'connected'); s.destroy(); }).on('error', (e) => console.log(path, e.code));
  }`;
const OPEN = `
  const { openSync } = require('fs');
  const tried = (what) => { try { what(); return 'opened'; } catch (e) { return e.code; } };
  for (const path of process.argv.slice(1)) console.log(path, tried(() => openSync(path, 'r+')), tried(() => openSync(path, 'r')));`;

/** What connecting to these sockets, or opening these files, leads to. Each line begins with the path. */
export async function tries(ns: Namespace, what: 'connect' | 'open', paths: readonly string[], user = OTHER): Promise<string[]> {
  const program = what === 'connect' ? CONNECT : OPEN;
  const said = await ns.ask(asOther(`${process.execPath} -e "${program.replaceAll('"', "'")}" ${paths.join(' ')}`, user));
  return (said ?? 'failed').trim().split('\n').sort();
}

/** The same, where every try is refused. */
export const refused = (what: 'connect' | 'open', paths: readonly string[]): string[] =>
  paths.map((p) => (what === 'connect' ? `${p} EACCES` : `${p} EACCES EACCES`)).sort();

/** Another user opens no file, and connects to no socket, of a user-engine installation with one VM on `shared`. */
export async function expectClosedToOthers(ns: Namespace, home: string): Promise<void> {
  const sockets = unixSockets(ns, home);
  const names = new Set(sockets.map((p) => p.slice(home.length + 1).replace(/[0-9a-f]{8}/, 'VM')));
  const process = 'run/net-shared/control.sock';
  expect(names).toEqual(new Set(['run/ankad.sock', process, `${process}.dial`, 'run/nic/VM/qemu.sock', 'run/vm/VM/console.sock', 'run/vm/VM/qmp.sock']));
  expect(await tries(ns, 'connect', sockets)).toEqual(refused('connect', sockets));
  const files = filesBelow(home);
  expect(files.length).toBeGreaterThan(6);
  expect(await tries(ns, 'open', files)).toEqual(refused('open', files));
}
