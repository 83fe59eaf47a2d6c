/**
 * The tables of iptables-legacy, which the kernel keeps apart from nft's tables.
 *
 * Theory of operation: listing a table would load its module, after which packets pass it. So the table is listed only
 * if the kernel has it in this network namespace already, which /proc/net/ip_tables_names says. The kernel counts no
 * changes of it, so a digest of its entries shows them.
 */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { run } from '../../../host/exec.ts';
import { readXtablesEntries } from '../../../host/ffi/xtables.ts';
import { monotonicMs } from '../../../lib/clock.ts';

const TABLES = '/proc/net/ip_tables_names';
/** Wait for the lock of another iptables, up to 10 s. */
const WAIT = ['-w', '10'];

/** Offsets in struct ipt_entry: its length with matches and target, its counters, and what follows them. */
const ENTRY = { next: 90, counters: 96, end: 112 } as const;

export interface LegacyChain {
  name: 'FORWARD' | 'INPUT';
  policy: string;
  /** Its rules, as `iptables -S` prints them. */
  rules: string[];
  /** All lines of the table. */
  all: string[];
}

/** Tables besides filter whose rules may drop a packet. */
export const PACKET_TABLES = ['raw', 'mangle', 'security'] as const;
export type PacketTable = (typeof PACKET_TABLES)[number];

/** Whether the kernel has the table. */
export async function hasLegacyTable(table: 'filter' | PacketTable = 'filter'): Promise<boolean> {
  const names = await readFile(TABLES, 'utf8').catch(() => '');
  return names.split('\n').includes(table);
}

/** Changes with the table's rules and policies; empty if there is none. */
export async function legacyDigest(): Promise<string> {
  if (!(await hasLegacyTable())) return '';
  try {
    return createHash('sha256')
      .update(withoutCounters(readXtablesEntries('filter')))
      .digest('hex');
  } catch {
    return `unreadable ${monotonicMs()}`; // a change, as there may be one
  }
}

/** Entries of a table (struct ipt_entry) with their counters set to zero. */
export function withoutCounters(entries: Buffer): Buffer {
  const copy = Buffer.from(entries);
  for (let at = 0; at + ENTRY.end <= copy.length; ) {
    const length = copy.readUInt16LE(at + ENTRY.next);
    copy.fill(0, at + ENTRY.counters, at + ENTRY.end);
    if (length < ENTRY.end) break;
    at += length;
  }
  return copy;
}

/** The table as `iptables -S` prints it; null if there is none, or no program that reads it. */
export async function legacyTable(table: 'filter' | PacketTable = 'filter'): Promise<string[] | null> {
  if (!(await hasLegacyTable(table))) return null;
  const text = await run('iptables-legacy', [...WAIT, '-t', table, '-S']).catch(() => '');
  return text === '' ? null : text.split('\n').filter((l) => l !== '');
}

/** The chains on the path of guests' packets, of the table's lines. */
export function legacyChains(all: string[]): LegacyChain[] {
  return (['FORWARD', 'INPUT'] as const).flatMap((name): LegacyChain[] => {
    const policy = all.find((l) => l.startsWith(`-P ${name} `))?.split(' ')[2];
    return policy === undefined ? [] : [{ name, policy, rules: all.filter((l) => l.startsWith(`-A ${name} `)), all }];
  });
}
