/**
 * Loads libc and declares its functions. Sole importer of koffi, which is loaded at the first call so that start-up
 * stays fast.
 *
 * Theory of operation: each file of this directory declares the functions of its subject in `declareOnce`, whose result
 * runs the declaration at its first call and returns the same functions from then on. Limits: Linux on little-endian
 * 64-bit machines; per packet only in datagrams.ts. On macOS only the lock and the peer's user are supported, untested.
 */
import { createRequire } from 'node:module';

export type Koffi = typeof import('koffi');

export interface Libc {
  koffi: Koffi;
  /** Declares a function by its C prototype. */
  func: ReturnType<Koffi['load']>['func'];
}

export const onLinux = process.platform === 'linux';

let libc: Libc | null = null;

function load(): Libc {
  if (libc) return libc;
  const koffi = createRequire(import.meta.url)('koffi') as Koffi;
  const library = koffi.load(onLinux ? 'libc.so.6' : 'libSystem.B.dylib');
  libc = { koffi, func: library.func.bind(library) as Libc['func'] };
  return libc;
}

export function declareOnce<T>(declare: (libc: Libc) => T): () => T {
  let declared: T | null = null;
  return () => {
    declared ??= declare(load());
    return declared;
  };
}

/** errno of this thread's last call. */
export function errno(): number {
  return load().koffi.errno();
}
