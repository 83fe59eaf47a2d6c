/** Commands on the host as a whole: config, network, doctor, events, daemon, version. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, isRunning } from '../../api/client.ts';
import type { DaemonStatus, DoctorFinding, NetworkStatus, SettingValue } from '../../api/types.ts';
import { ownProgram } from '../../host/own-program.ts';
import { resolvePaths } from '../../host/paths.ts';
import { isAlive } from '../../host/process.ts';
import { AnkaError } from '../../lib/errors.ts';
import { version } from '../../lib/version.ts';
import { grid, pairs } from '../grid.ts';
import type { Session } from '../session.ts';

export async function config(s: Session, key: string | undefined, value: string | undefined, o: { list?: boolean; reset?: boolean }): Promise<void> {
  const daemon = await s.daemon();
  if (key === undefined) {
    if (o.reset) throw new AnkaError('usage', "Missing argument 'KEY'.");
    const all = await daemon.get<SettingValue[]>('/v1/config');
    return s.out.done(
      Object.fromEntries(all.map((x) => [x.key, x.value])),
      grid(
        ['key', 'value', 'source', 'description'],
        all.map((x) => [x.key, x.value, x.source, x.description]),
      ),
    );
  }
  const path = `/v1/config/${encodeURIComponent(key)}`;
  if (o.reset) {
    const x = await daemon.delete<SettingValue>(path);
    if (x.notice) s.out.note(x.notice);
    return s.out.done({ [x.key]: x.value }, x.value);
  }
  if (value === undefined) {
    const x = await daemon.get<SettingValue>(path);
    return s.out.done(x.value, x.value);
  }
  const x = await daemon.put<SettingValue>(path, { value });
  s.out.done({}, x.notice);
}

export async function networkList(s: Session): Promise<void> {
  const all = await (await s.daemon()).get<NetworkStatus[]>('/v1/networks');
  s.out.done(
    all,
    grid(
      ['name', 'subnet', 'gateway', 'interface', 'healthy', 'leases', 'vms', 'message'],
      all.map((n) => [
        n.name,
        n.subnet ?? '',
        n.gateway ?? '',
        n.interface ?? '',
        n.healthy ? 'yes' : 'no',
        n.leases === null ? '' : `${n.leases} of ${n.pool_size}`,
        n.vms.join(', '),
        n.message,
      ]),
    ),
  );
}

export async function networkReset(s: Session): Promise<void> {
  const body = await (await s.daemon()).post<{ removed: string[] }>('/v1/networks/reset');
  s.out.done(body, body.removed.length === 0 ? 'there was nothing to remove' : body.removed.map((r) => `removed ${r}`).join('\n'));
}

export async function doctor(s: Session): Promise<void> {
  const findings = await (await s.daemon()).get<DoctorFinding[]>('/v1/doctor');
  const text = findings
    .map(
      (f) =>
        `${f.level === 'ok' ? 'ok     ' : f.level === 'warning' ? 'WARNING' : 'ERROR  '} ${f.message}${f.remedy ? `\n        mend it by: ${f.remedy}` : ''}`,
    )
    .join('\n');
  s.out.done(findings, text);
  if (findings.some((f) => f.level === 'error')) s.exit(1);
}

export async function events(s: Session): Promise<void> {
  const daemon = await s.daemon();
  for await (const e of daemon.events()) {
    process.stdout.write(
      s.out.machine ? `${JSON.stringify(e)}\n` : `${new Date(e.time).toISOString()} ${e.type.padEnd(16)} ${e.vm ? `${e.vm.name}: ` : ''}${e.message}\n`,
    );
  }
}

export async function daemonStatus(s: Session): Promise<void> {
  const daemon = await connect(resolvePaths(), { autostart: false });
  const d = await daemon.get<DaemonStatus>('/v1/status');
  s.out.done(d, pairs(Object.entries(d).map(([k, v]) => [k, String(v)])));
}

export async function daemonStop(s: Session): Promise<void> {
  const paths = resolvePaths();
  if (!(await isRunning(paths))) return s.out.done({}, 'the daemon does not run');
  const daemon = await connect(paths, { autostart: false });
  const { pid } = await daemon.get<DaemonStatus>('/v1/status');
  await daemon.post('/v1/shutdown');
  while (isAlive(pid)) await sleep(20);
  s.out.done({}, 'the daemon has ended; VMs and networks go on');
}

/** Runs the daemon in this terminal. */
export async function daemonRun(s: Session): Promise<void> {
  const [node, ...argv] = ownProgram(new URL('../../daemon/main.ts', import.meta.url));
  const child = spawn(node, [...argv, '--foreground'], { stdio: 'inherit' });
  process.on('SIGINT', () => {});
  s.exit(await new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? 1))));
}

export async function showVersion(s: Session): Promise<void> {
  s.out.done({ product: 'anka-net', version: version() }, `anka-net version ${version()}`);
}
