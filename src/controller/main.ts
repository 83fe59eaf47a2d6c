/**
 * The program of `anka controller run`: Anka's REST API for the VMs of this host.
 *
 * Theory of operation: it is a client of the user's daemon, as `anka` is. One argument holds the options as JSON. It
 * takes a lock, continues with the instances in the file, and listens. All state is on disk, so a signal ends it at
 * once. Limits: one for a state directory.
 */
import '../host/no-debugger.ts';
import { mkdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { resolvePaths } from '../host/paths.ts';
import { lockHolder, ProcessLock } from '../host/process-lock.ts';
import { surviveUnexpectedErrors } from '../host/unexpected-errors.ts';
import { AnkaError, ankaError } from '../lib/errors.ts';
import { version } from '../lib/version.ts';
import { defaultCapacity } from './host-facts.ts';
import { createApp } from './http/routes.ts';
import { listen, type Tls } from './http/server.ts';
import { InstanceFile } from './instance-file.ts';
import { Instances } from './instances.ts';
import { checkOptions, forwardAddress, type RawOptions } from './options.ts';
import { readPublic, readSecret, readToken } from './secret-file.ts';
import { Vms } from './vms.ts';

/** A line of the log. Control characters, which names of clients may hold, become blanks. */
function log(line: string): void {
  process.stderr.write(`${line.replace(/[\x00-\x1f\x7f-\x9f]/g, ' ')}\n`);
}

function tlsOf(o: RawOptions): Tls | null {
  if (o.cert === undefined || o.key === undefined) return null;
  return {
    cert: readPublic('--cert', o.cert),
    key: readSecret('--key', o.key),
    ...(o.clientCa === undefined ? {} : { ca: readPublic('--client-ca', o.clientCa) }),
  };
}

async function main(o: RawOptions): Promise<void> {
  const at = checkOptions(o);
  const admission = { token: o.tokenFile === undefined ? null : readToken(o.tokenFile), certificates: o.clientCa !== undefined };
  const tls = tlsOf(o);
  const paths = resolvePaths();
  mkdirSync(paths.state, { recursive: true, mode: 0o711 });
  const lock = join(paths.state, 'controller.lock');
  if (!ProcessLock.take(lock)) throw new AnkaError('badState', `another controller runs (pid ${lockHolder(lock)}); stop it first`);
  const file = new InstanceFile(join(paths.state, 'controller.json'));
  const vms = new Vms(paths);
  const capacity = o.maxVms ?? defaultCapacity();
  const instances = new Instances(file, vms, { capacity, nodeName: hostname(), hostIp: forwardAddress(at, o.nodeAddress) }, log);
  const served = { instances, vms, admission, nodeId: file.node, nodeAddress: o.nodeAddress ?? null, state: paths.state, version: version() };
  const { port } = await listen(createApp(served), at, tls);
  surviveUnexpectedErrors({ log: { error: (error, m) => log(`${m}: ${JSON.stringify(error)}`) }, survives: () => true, exit: () => process.exit(1) });
  instances.start();
  const url = `${tls ? 'https' : 'http'}://${at.host.includes(':') ? `[${at.host}]` : at.host}:${port}`;
  report(o, { url, node_id: file.node, capacity }, `the controller listens on ${url}, for at most ${capacity} VMs`);
}

function report(o: RawOptions, body: object, text: string): void {
  process.stdout.write(o.machine ? JSON.stringify({ status: 'OK', body, message: '', code: 0 }) : `${text}\n`);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(0));
process.stdout.on('error', () => {});
process.stderr.on('error', () => {});
const options = JSON.parse(process.argv[2] ?? '{}') as RawOptions;
main(options).catch((cause: unknown) => {
  const error = ankaError(cause);
  if (options.machine)
    process.stdout.write(JSON.stringify({ status: 'ERROR', body: {}, message: error.message, code: error.code, exception_type: error.type }));
  else process.stderr.write(`anka: ${error.message}\n`);
  process.exitCode = error.code;
});
