/**
 * Sets of nftables and their elements, read without running a program.
 *
 * Theory of operation: a dump of the table's sets, and one of each set's elements. A table that is just being replaced
 * is never missing, as a transaction is atomic.
 */
import { formatIpv4, formatMac } from '../../wire/address.ts';
import { dump, type Family, text, textOf } from './netfilter.ts';
import { attributeList, attributes } from './netlink.ts';

export const GET_SET = 0x0a0a;
const GET_SET_ELEMENTS = 0x0a0d;
const SET_TABLE = 1;
export const SET_NAME = 2;
const SET_KEY_TYPE = 4;
const LIST_TABLE = 1;
const LIST_SET = 2;
const LIST_ELEMENTS = 3;
const ELEMENT_KEY = 1;
const ELEMENT_EXPIRATION = 5;
const ELEMENT_EXPRESSION = 7;
const DATA_VALUE = 1;
const EXPRESSION_NAME = 1;
const EXPRESSION_DATA = 2;
const COUNTER_PACKETS = 2;
/** nft's numbers of types. Those of a concatenation stand in six bits each, the last one lowest. */
const TYPES = { ipv4: 7, ethernet: 9, interface: 41 } as const;
/** The type of a set of MAC addresses, for `readSet`. */
export const ETHERNET = TYPES.ethernet;
const TYPE_BITS = 6;

/** An element of a set. */
export interface SetElement {
  /**
   * The parts of a concatenation, or the value alone, as nft reads them, without quotes: addresses, names of
   * interfaces, and anything else as one hexadecimal number for the rest of the key.
   */
  parts: string[];
  /** The key as the kernel has it: network byte order, each part padded to four bytes. */
  key: Buffer;
  /** Its packet counter. */
  packets?: number;
  /** Seconds until it expires, rounded down. */
  expires?: number;
}

/**
 * Sets of a table with their elements, by name; those for which `isWanted` is true. None if the table does not exist.
 * Throws the kernel's errors.
 */
export function readSets(family: Family, table: string, isWanted: (name: string) => boolean = () => true): Map<string, SetElement[]> {
  const found = new Map<string, SetElement[]>();
  for (const body of dump(GET_SET, family, text(SET_TABLE, table))) {
    const all = attributes(body);
    const name = textOf(body, SET_NAME);
    if (!isWanted(name)) continue;
    const type = all.get(SET_KEY_TYPE)?.payload;
    found.set(name, readSet(family, table, name, type?.length === 4 ? type.readUInt32BE() : 0));
  }
  return found;
}

/** Elements of a set; none if it does not exist. `keyType`: nft's number of its type, 0 if only the keys matter. */
export function readSet(family: Family, table: string, set: string, keyType = 0): SetElement[] {
  return dumpElements(family, table, set).flatMap((body) => parseElements(body, keyType));
}

/** Messages with a set's elements (`elementList`); none if it does not exist. */
export function dumpElements(family: Family, table: string, set: string): Buffer[] {
  return dump(GET_SET_ELEMENTS, family, Buffer.concat([text(LIST_TABLE, table), text(LIST_SET, set)]));
}

/** The elements in one message of `dumpElements`, as the kernel has them. */
export const elementList = (body: Buffer): Buffer[] => [...attributeList(attributes(body).get(LIST_ELEMENTS)?.payload ?? EMPTY)].map((e) => e.payload);

const EMPTY = Buffer.alloc(0);

/** Elements in one message of a dump, without its headers. `keyType` as for `readSet`. */
export function parseElements(body: Buffer, keyType: number): SetElement[] {
  return elementList(body).flatMap((payload) => {
    const element = attributes(payload);
    const key = attributes(element.get(ELEMENT_KEY)?.payload ?? EMPTY).get(DATA_VALUE)?.payload;
    if (!key) return [];
    const packets = packetsOf(attributes(element.get(ELEMENT_EXPRESSION)?.payload ?? EMPTY));
    const expiration = number64(element.get(ELEMENT_EXPIRATION)?.payload);
    return {
      parts: partsOf(key, keyType),
      key,
      ...(packets === null ? {} : { packets }),
      ...(expiration === null ? {} : { expires: Math.floor(expiration / 1000) }),
    };
  });
}

function packetsOf(expression: ReturnType<typeof attributes>): number | null {
  if (expression.get(EXPRESSION_NAME)?.payload.toString('latin1') !== 'counter\0') return null;
  return number64(attributes(expression.get(EXPRESSION_DATA)?.payload ?? EMPTY).get(COUNTER_PACKETS)?.payload);
}

const number64 = (b: Buffer | undefined): number | null => (b?.length === 8 ? Number(b.readBigUInt64BE()) : null);

/** The parts of a key whose types are `keyType`. */
function partsOf(key: Buffer, keyType: number): string[] {
  const types: number[] = [];
  for (let rest = keyType; rest > 0; rest >>>= TYPE_BITS) types.unshift(rest & ((1 << TYPE_BITS) - 1));
  const parts: string[] = [];
  let at = 0;
  for (const type of types) {
    const format = FORMATS.get(type);
    if (!format || at + format.bytes > key.length) break;
    parts.push(format.write(key.subarray(at, at + format.bytes)));
    at += Math.ceil(format.bytes / 4) * 4;
  }
  if (at < key.length) parts.push(`0x${key.toString('hex', at)}`);
  return parts;
}

const FORMATS = new Map<number, { bytes: number; write: (b: Buffer) => string }>([
  [TYPES.ipv4, { bytes: 4, write: (b) => formatIpv4(b.readUInt32BE()) }],
  [TYPES.ethernet, { bytes: 6, write: (b) => formatMac(b.readUIntBE(0, 6)) }],
  [TYPES.interface, { bytes: 16, write: (b) => b.toString('latin1').replace(/\0.*$/s, '') }],
]);
