/**
 * Which requests are answered: by their token, their Host and their Origin. Pure.
 *
 * Theory of operation. Clients send the token as the password of basic authentication, whatever the user's name, as
 * with the root token of Anka's controller; or as a bearer token. Without a token the controller listens on the
 * loopback only, where a web page could reach it: by a name of its own that leads to 127.0.0.1 (DNS rebinding), which
 * Host reveals, or by a request to another origin, which Origin or Sec-Fetch-Site reveals. Programs send neither.
 *
 * Limits: without a token, every local user may use the controller.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { isLoopback } from '../options.ts';

/** What admission looks at. A header that is absent is undefined. */
export interface Asked {
  host: string | undefined;
  origin: string | undefined;
  fetchSite: string | undefined;
  authorization: string | undefined;
  /** The client has a certificate of the CA. */
  hasCertificate: boolean;
}

export interface Refusal {
  status: 401 | 403;
  message: string;
}

/** `token`: null if none is demanded. `certificates`: clients may have a certificate instead. */
export interface AdmissionRules {
  token: string | null;
  certificates: boolean;
}

/** Why a request is refused; null if it is not. The exporter compares the message of a 401. */
export function refusalOf(asked: Asked, { token, certificates }: AdmissionRules): Refusal | null {
  const open = token === null && !certificates;
  if (open && !isLocalHost(asked.host))
    return { status: 403, message: 'the Host header must be localhost or an address of the loopback; set a token to allow other names' };
  if (isForeign(asked)) return { status: 403, message: 'requests of web pages of another origin are refused' };
  if (open || asked.hasCertificate || (token !== null && isToken(asked.authorization, token))) return null;
  return { status: 401, message: 'Authentication Required' };
}

function isLocalHost(host: string | undefined): boolean {
  const m = /^(?:\[([0-9a-f:.]+)\]|([^:[\]]+))(?::\d{1,5})?$/i.exec(host ?? '');
  const name = m?.[1] ?? m?.[2] ?? '';
  return name.toLowerCase() === 'localhost' || isLoopback(name);
}

function isForeign({ host, origin, fetchSite }: Asked): boolean {
  if (fetchSite !== undefined && fetchSite !== 'same-origin' && fetchSite !== 'none') return true;
  if (origin === undefined) return false;
  return host === undefined || !['http://', 'https://'].some((scheme) => origin.toLowerCase() === scheme + host.toLowerCase());
}

function isToken(authorization: string | undefined, token: string): boolean {
  const [, scheme, value] = /^(basic|bearer) +(\S+) *$/i.exec(authorization ?? '') ?? [];
  if (scheme === undefined || value === undefined) return false;
  if (scheme.toLowerCase() === 'bearer') return isEqual(value, token);
  const pair = Buffer.from(value, 'base64').toString('utf8');
  const colon = pair.indexOf(':');
  return colon >= 0 && isEqual(pair.slice(colon + 1), token);
}

/** In a time that does not depend on where they differ. */
function isEqual(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}
