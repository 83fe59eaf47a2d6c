/** `anka version`. */
import { version } from '../../lib/version.ts';
import type { Session } from '../session.ts';

export async function printVersion(s: Session): Promise<void> {
  s.out.done({ product: 'anka-net', version: version(), build: version() }, `anka-net version ${version()}`);
}
