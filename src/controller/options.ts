/** The options of `anka controller run`, checked. Pure. */
import { isIP } from 'node:net';
import { AnkaError } from '../lib/errors.ts';

/** As `anka` passes them on. */
export interface RawOptions {
  listen: string;
  tokenFile?: string;
  maxVms?: number;
  nodeAddress?: string;
  cert?: string;
  key?: string;
  clientCa?: string;
  /** Print one line of JSON. */
  machine?: boolean;
}

export interface ListenAddress {
  /** IPv4 or IPv6 address. */
  host: string;
  /** 0: any free port. */
  port: number;
}

/** `127.0.0.1:8090`, `[::1]:8090`, `localhost:8090`. */
export function parseListen(text: string): ListenAddress {
  const m = /^(?:\[([0-9a-f:.]+)\]|([^\s:[\]]+)):(\d{1,5})$/i.exec(text);
  const host = m?.[2] === 'localhost' ? '127.0.0.1' : (m?.[1] ?? m?.[2] ?? '');
  const port = Number(m?.[3]);
  const isAddress = m?.[1] === undefined ? isIP(host) === 4 : isIP(host) === 6;
  if (!m || !isAddress || port > 65_535)
    throw new AnkaError('badValue', `--listen '${text.slice(0, 80)}': must be ADDRESS:PORT, such as 127.0.0.1:8090, 0.0.0.0:8090 or [::1]:8090`);
  return { host, port };
}

export const isLoopback = (address: string): boolean => address === '::1' || (isIP(address) === 4 && address.startsWith('127.'));

/**
 * The host address at which the forwarded ports of instances listen: the controller's own, as guests have a known
 * password. Undefined: at every IPv4 address of the host.
 */
export function forwardAddress({ host }: ListenAddress, nodeAddress: string | undefined): string | undefined {
  return nodeAddress !== undefined || host === '0.0.0.0' || host === '::' ? undefined : host;
}

/** Throws `badValue` for options that do not go together, or that would let anybody in. */
export function checkOptions(o: RawOptions): ListenAddress {
  const listen = parseListen(o.listen);
  if ((o.cert === undefined) !== (o.key === undefined)) throw new AnkaError('badValue', '--cert and --key belong together: give both, or none');
  if (o.clientCa !== undefined && o.cert === undefined) throw new AnkaError('badValue', '--client-ca needs TLS: give --cert and --key, too');
  if (o.tokenFile === undefined && o.clientCa === undefined && !isLoopback(listen.host))
    throw new AnkaError(
      'badValue',
      `--listen ${o.listen}: without a token everybody could use the controller there; give --token-file FILE, or listen on 127.0.0.1`,
    );
  if (o.nodeAddress !== undefined && !/^[A-Za-z0-9.:_-]{1,253}$/.test(o.nodeAddress))
    throw new AnkaError('badValue', `--node-address '${o.nodeAddress.slice(0, 80)}': must be an IP address or a host name`);
  return listen;
}
