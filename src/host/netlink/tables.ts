/**
 * Tables of nftables, compared without running a program.
 *
 * Theory of operation: a table's digest covers what a program has written: chains, rules, sets, and the elements of
 * sets that packets do not fill. Counters do not belong to it. It contains the kernel's handles, so a rule that was
 * deleted and added again counts as a change.
 */
import { createHash } from 'node:crypto';
import { closeSync } from 'node:fs';
import { dump, FAMILIES, type Family, message, openNetfilter, text, textOf } from './netfilter.ts';
import { ACK, attributeList, attributes, errnoOf, query } from './netlink.ts';
import { dumpElements, elementList, GET_SET, SET_NAME } from './sets.ts';

const GET_TABLE = 0x0a01;
const GET_CHAIN = 0x0a04;
const GET_RULE = 0x0a07;
/** The name of the table: the same number in messages of every kind. */
const TABLE = 1;
const CHAIN_COUNTERS = 8;
const RULE_EXPRESSIONS = 4;
const EXPRESSION_NAME = 1;
const SET_FLAGS = 3;
/** Name, flags, types and lengths of key and data, sizes, timeout, handle. Newer kernels also count the elements. */
const SET_ATTRIBUTES = new Set([2, 3, 4, 5, 6, 7, 9, 11, 16]);
/** NFT_SET_EVAL: rules add elements to the set. */
const FILLED_BY_PACKETS = 0x20;

/** Whether the table exists. False where the kernel has no nftables. */
export function tableExists(family: Family, table: string): boolean {
  const fd = openNetfilter();
  try {
    query(fd, message(GET_TABLE, ACK, text(TABLE, table), FAMILIES[family]));
    return true;
  } catch (cause) {
    if (errnoOf(cause) === 0) throw cause;
    return false;
  } finally {
    closeSync(fd);
  }
}

/** A digest of what programs have written to the table; null if it does not exist. Throws the kernel's errors. */
export function tableDigest(family: Family, table: string): string | null {
  if (!tableExists(family, table)) return null;
  const hash = createHash('sha256');
  const ours = (type: number): Buffer[] => dump(type, family, text(TABLE, table)).filter((body) => textOf(body, TABLE) === table);
  for (const body of ours(GET_CHAIN)) for (const a of attributeList(body)) if (a.type !== CHAIN_COUNTERS) hash.update(a.whole);
  for (const body of ours(GET_RULE)) for (const part of partsOfRule(body)) hash.update(part);
  for (const body of ours(GET_SET)) {
    for (const a of attributeList(body)) if (SET_ATTRIBUTES.has(a.type)) hash.update(a.whole);
    const filled = ((attributes(body).get(SET_FLAGS)?.payload.readUInt32BE() ?? 0) & FILLED_BY_PACKETS) !== 0;
    if (!filled) for (const element of elementsOf(family, table, textOf(body, SET_NAME))) hash.update(element);
  }
  return hash.digest('hex');
}

/** What a program has written of a rule: everything but the state of its counters. */
export function partsOfRule(body: Buffer): Buffer[] {
  return [...attributeList(body)].flatMap((a) => {
    if (a.type !== RULE_EXPRESSIONS) return a.whole;
    return [...attributeList(a.payload)].map((e) => {
      const name = attributes(e.payload).get(EXPRESSION_NAME);
      return name?.payload.toString('latin1') === 'counter\0' ? name.whole : e.whole;
    });
  });
}

/** Sorted, as the kernel's order may change by itself. */
function elementsOf(family: Family, table: string, set: string): string[] {
  return dumpElements(family, table, set)
    .flatMap(elementList)
    .map((element) => element.toString('hex'))
    .sort();
}
