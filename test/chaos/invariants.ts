/** What must hold at any time, and what may be left at the end. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { memoryOf, until } from '../world/world.ts';
import type { Site } from './site.ts';

/** Resident memory of a daemon or helper process, bytes. Both stay well below it under load. */
const MEMORY_LIMIT = 400 << 20;
/** Lines of a log that report an exception. */
const EXCEPTION = /"level":(50|60)|unexpected error|unhandled|uncaught|\bat \S+ \(?(file:|node:)/i;
/** Files of the state directory that outlive all VMs. */
const KEPT = [
  /^anka\.db/,
  /^ankad\.(lock|log(\.1)?|stderr)$/,
  /^run-directory$/,
  // the daemon's socket, which its successor replaces
  /^run\/ankad\.sock$/,
  /^(service|net-\w+)\/(log(\.1)?|leases\.json)$/,
  /^accelerator/,
  /^id_ed25519/,
  /^sysctls?\.json/,
];

/** What is wrong with daemon, logs, memory and commands now. */
export function violations(site: Site): string[] {
  const wrong = site.faults.splice(0).map((f) => `anka ${f.command}: ${f.why}`);
  const pid = site.anka.daemonPid();
  if (site.daemon !== null && pid !== site.daemon) wrong.push(`the daemon (pid ${site.daemon}) ended by itself; now: ${pid ?? 'none'}`);
  for (const [name, bytes] of memory(site)) if (bytes > MEMORY_LIMIT) wrong.push(`${name} holds ${Math.round(bytes / 1e6)} MB`);
  return [...wrong, ...exceptions(site)];
}

/** Resident memory of the daemon and of the helper processes, bytes. */
export function memory(site: Site): [name: string, bytes: number][] {
  const of = (pid: number): number => {
    try {
      return memoryOf(pid);
    } catch {
      return 0; // exited meanwhile
    }
  };
  const pid = site.anka.daemonPid();
  return [...(pid === null ? [] : [['daemon', of(pid)] as [string, number]]), ...site.helpers().map((p): [string, number] => ['helper', of(p)])];
}

const reported = new Set<string>();

/** Exceptions in the logs that were not reported yet. */
function exceptions(site: Site): string[] {
  const files = readdirSync(site.anka.home, { recursive: true, encoding: 'utf8' }).filter((f) => /(^|\/)(ankad\.(log|stderr)|log)(\.1)?$/.test(f));
  const lines = files.flatMap((f) =>
    readFileSync(join(site.anka.home, f), 'utf8')
      .split('\n')
      .map((l) => `${f}: ${l}`),
  );
  return lines.filter((l) => EXCEPTION.test(l) && !reported.has(l) && reported.add(l));
}

/** Deletes all VMs, and returns what is left of anka. */
export async function leftovers(site: Site): Promise<string[]> {
  const { anka, world } = site;
  await anka.end();
  const left: string[] = [];
  const ours = () => site.processes().filter((p) => p.args.some((a) => /dist\/|qemu-system/.test(a)));
  await until('no process is left', () => ours().length === 0, 60_000).catch(() => left.push(...ours().map((p) => `process ${p.pid}: ${p.args.join(' ')}`)));
  left.push(
    ...world.host
      .run('ip -o link; ip rule; ip route show table all; nft list ruleset')
      .split('\n')
      .filter((l) => /anka|other[01]|192\.168\./.test(l)),
  );
  left.push(
    ...world.host
      .run('ss -Hlnx; ss -Hlntu')
      .split('\n')
      .filter((l) => l.includes(anka.home) || /:(12\d\d\d|9953|996[78])\b/.test(l)),
  );
  const files = readdirSync(anka.home, { recursive: true, withFileTypes: true }).filter((f) => !f.isDirectory());
  const paths = files.map((f) => join(f.parentPath, f.name).slice(anka.home.length + 1));
  left.push(...paths.filter((p) => !KEPT.some((k) => k.test(p))));
  const dirs = ['vms', 'run/vm', 'run/nic'].map((d) => join(anka.home, d)).filter((d) => existsSync(d));
  left.push(...dirs.flatMap((d) => readdirSync(d).map((f) => join(d, f))));
  return left;
}
