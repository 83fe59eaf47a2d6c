/**
 * Addresses at which clouds serve their instances: metadata, credentials, start-up secrets. The service takes whoever
 * asks through the host for the host. So it is closed to guests, unless `anka config metadata allow` opens it.
 *
 * Link-local addresses (169.254.0.0/16) that are not the host's own stay closed in any case: no router forwards them
 * (RFC 3927, 7).
 */
import { formatIpv4, type SubnetLike, subnetContains } from '../../wire/address.ts';

/**
 * 169.254.0.0/16: AWS, Azure, Google, OpenStack, DigitalOcean (.169.254), names and time of AWS (.169.253, .169.123),
 * credentials of its containers (.170.2, .170.23). Then Azure's host agent, Alibaba's service and Oracle's.
 */
export const METADATA_SERVICES: readonly number[] = [
  0xa9fea9fe,
  0xa9fea9fd,
  0xa9fea97b,
  0xa9feaa02,
  0xa9feaa17,
  0xa83f8110, // 168.63.129.16
  0x646464c8, // 100.100.100.200
  0xc00000c0, // 192.0.0.192
];
/** AWS and Google. Canonical text. */
export const METADATA6: readonly string[] = ['fd00:ec2::254', 'fd00:ec2::253', 'fd00:ec2::123', 'fd00:ec2::23', 'fd20:ce::254'];

export const LINK_LOCAL: SubnetLike = { base: 0xa9fe0000, prefix: 16 };

const known = new Set(METADATA_SERVICES);

/** Called per datagram. */
export const isMetadata = (ip: number): boolean => known.has(ip);
export const isMetadata6 = (ip: string): boolean => METADATA6.includes(ip);
export const isLinkLocal = (ip: number): boolean => subnetContains(LINK_LOCAL, ip);

/** As nft writes them. */
export const METADATA_ADDRESSES: readonly string[] = METADATA_SERVICES.map(formatIpv4);
