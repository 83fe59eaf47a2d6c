/** Files with secrets: the token, and TLS keys. Others may not be able to read them. */
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { AnkaError } from '../lib/errors.ts';

/** Longest file, bytes. */
const MAX_BYTES = 64 << 10;
/** As many characters as Anka's own controller demands. */
const MIN_TOKEN = 10;
const MAX_TOKEN = 1024;

/** The content of a file that only its owner may read. `option` names it in errors. */
export function readSecret(option: string, path: string): string {
  return readChecked(option, path, true);
}

/** The content of a file that is no secret, such as a certificate. */
export function readPublic(option: string, path: string): string {
  return readChecked(option, path, false);
}

/** The token in a file: one line of 10 to 1024 printable characters without blanks. */
export function readToken(path: string): string {
  const token = readSecret('--token-file', path).trim();
  if (!/^[\x21-\x7e]+$/.test(token) || token.length < MIN_TOKEN || token.length > MAX_TOKEN)
    throw new AnkaError('badValue', `--token-file ${path}: must hold one token of ${MIN_TOKEN} to ${MAX_TOKEN} characters; 'openssl rand -hex 32' prints one`);
  return token;
}

function readChecked(option: string, path: string, secret: boolean): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (cause) {
    throw new AnkaError('badValue', `${option} ${path}: ${(cause as Error).message.replace(/,.*/, '')}`, { cause });
  }
  try {
    const s = fstatSync(fd);
    if (!s.isFile() || s.size > MAX_BYTES) throw new AnkaError('badValue', `${option} ${path}: must be a file of at most ${MAX_BYTES} bytes`);
    if (secret && (s.mode & 0o077) !== 0) throw new AnkaError('noRights', `${option} ${path}: other users can read it; run 'chmod 600 ${path}'`);
    if (secret && s.uid !== 0 && s.uid !== process.getuid?.())
      throw new AnkaError('noRights', `${option} ${path}: it belongs to another user; run 'chown ${process.getuid?.()} ${path}'`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}
