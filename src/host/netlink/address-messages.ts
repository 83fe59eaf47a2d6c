/** IPv4 addresses of interfaces as the kernel describes them (RTM_NEWADDR, rtnetlink(7)). */
import { AttributeReader } from './attribute-reader.ts';
import { AF_INET } from './netlink.ts';
import { dumpRtnetlink } from './rtnetlink.ts';

const RTM_GETADDR = 22;
/** struct ifaddrmsg: offsets, and its length. */
const PREFIX = 1;
const INDEX = 4;
const HEADER = 8;
/** The address; on a point-to-point interface, that of the other end. */
const IFA_ADDRESS = 1;
const IFA_LOCAL = 2;

export interface AddressMessage {
  /** Index of the interface. */
  index: number;
  /** In host order. */
  address: number;
  prefix: number;
}

/** Addresses of all interfaces. Throws where netlink is not available. */
export function readAddresses(): AddressMessage[] {
  const header = Buffer.alloc(HEADER);
  header[0] = AF_INET;
  return dumpRtnetlink(RTM_GETADDR, header).flatMap((body) => parseAddress(body) ?? []);
}

/** Null: it is no IPv4 address. */
export function parseAddress(body: Buffer): AddressMessage | null {
  if (body.length < HEADER || body[0] !== AF_INET) return null;
  const all = new AttributeReader(body, HEADER);
  const address = all.ipv4(IFA_LOCAL) ?? all.ipv4(IFA_ADDRESS);
  return address === null ? null : { index: body.readUInt32LE(INDEX), address, prefix: body.readUInt8(PREFIX) };
}
