/** Commands of other versions of Anka that mean nothing here, answered as on a machine that has none of it. */
import { open } from 'node:fs/promises';
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
  const { resolvePaths } = await import('../../host/paths.ts');
  const text = await tailOf(resolvePaths().log);
  s.out.done(text === '' ? [] : text.split('\n'), text);
}

/** The last whole lines of a file; empty if there is none. */
async function tailOf(path: string): Promise<string> {
  const file = await open(path, 'r').catch(() => null);
  if (file === null) return '';
  try {
    const from = Math.max(0, (await file.stat()).size - LOG_BYTES);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(LOG_BYTES), 0, LOG_BYTES, from);
    const text = buffer.toString('utf8', 0, bytesRead);
    return text.slice(from === 0 ? 0 : text.indexOf('\n') + 1).trimEnd();
  } finally {
    await file.close();
  }
}
