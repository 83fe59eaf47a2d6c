/** Commands of other versions of Anka that mean nothing here, answered as on a machine that has none of it. */
import { AnkaError } from '../../lib/errors.ts';
import { pairs } from '../output/grid.ts';
import type { Session } from '../session.ts';

/** Bytes of the log that are printed. */
const LOG_BYTES = 64 << 10;

const LICENSE = { product: 'anka-net', license_type: 'com.veertu.anka.free', status: 'valid' };

/** Clients demand a valid license whose type is neither `run` nor `develop`. */
export function showLicense(s: Session): void {
  s.out.done(LICENSE, pairs(Object.entries(LICENSE)));
}

export function noLicense(s: Session): void {
  s.out.remark('no license is needed');
  s.out.done({});
}

export function nothing(s: Session, body: unknown): void {
  s.out.done(body);
}

export function unsupported(what: string): never {
  throw new AnkaError('unsupported', what);
}

/** The end of the daemon's log, also when no daemon runs. */
export async function printLog(s: Session): Promise<void> {
  const [{ resolvePaths }, { readTail }] = await Promise.all([import('../../host/paths.ts'), import('../../host/untrusted-files.ts')]);
  const text = readTail(resolvePaths().log, LOG_BYTES);
  const lines = text.slice(text.length < LOG_BYTES ? 0 : text.indexOf('\n') + 1).trimEnd();
  s.out.done(lines === '' ? [] : lines.split('\n'), lines);
}
