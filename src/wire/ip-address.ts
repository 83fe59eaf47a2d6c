/** An IPv4 address as a number in host order, or an IPv6 address as canonical text. */
import { formatIpv4, parseIpv4 } from './address.ts';
import { parseIpv6 } from './address6.ts';

export type IpAddress = number | string;

/** Null when the text is neither. */
export const parseIp = (text: string): IpAddress | null => parseIpv4(text) ?? parseIpv6(text);

export const formatIp = (address: IpAddress): string => (typeof address === 'number' ? formatIpv4(address) : address);

/** With a port, as in a URL: IPv6 in brackets. */
export const formatIpPort = (address: IpAddress, port: number): string => `${typeof address === 'number' ? formatIpv4(address) : `[${address}]`}:${port}`;
