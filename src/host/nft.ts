/** nftables: rules are applied as text in one transaction, and listed without state for comparison. */
import { AnkaError } from '../lib/errors.ts';
import { parseIpv4, parseMac } from '../wire/address.ts';
import { run } from './exec.ts';

/** Applies `text` in one transaction. */
export async function applyNft(text: string): Promise<void> {
  await run('nft', ['-f', '-'], { input: `${text}\n` });
}

/** A table as nft prints it, without counters and timeouts; null if it does not exist. */
export async function listTable(family: string, name: string): Promise<string | null> {
  try {
    return await run('nft', ['-s', 'list', 'table', family, name]);
  } catch (cause) {
    if (cause instanceof AnkaError && cause.kind === 'missingProgram') throw cause;
    return null;
  }
}

/**
 * JSON that nft prints for an object; an empty list if it does not exist. Listed twice before that counts, as a table
 * may seem missing while it is replaced.
 */
async function readJson(object: readonly string[]): Promise<string> {
  const read = (): Promise<string> => run('nft', ['-j', 'list', ...object]);
  return read()
    .catch(read)
    .catch((cause: AnkaError) => {
      if (cause.kind === 'missingProgram') throw cause;
      return '{"nftables":[]}';
    });
}

/** A table's text without the elements of its dynamic sets, which packets add and remove. */
export function withoutDynamicElements(table: string): string {
  return table.replaceAll(/(set \w+ \{[^{}]*?\bflags [^\n]*\bdynamic\b[^{}]*?)\s*elements = \{[^}]*\}/g, '$1');
}

/** An Ethernet and an IPv4 address, and the seconds until they expire. */
export interface AddressPair {
  mac: number;
  ip: number;
  expires: number;
}

/**
 * Elements of a set of Ethernet and IPv4 addresses, by their types or as plain numbers. None if the set does not exist.
 */
export async function readAddressPairs(family: string, table: string, set: string): Promise<AddressPair[]> {
  const text = await readJson(['set', family, table, set]);
  const { nftables } = JSON.parse(text) as { nftables: { set?: { elem?: { elem?: { val?: { concat?: (string | number)[] }; expires?: number } }[] } }[] };
  return nftables.flatMap(({ set: found }) =>
    (found?.elem ?? []).flatMap(({ elem }) => {
      const [mac, ip] = elem?.val?.concat ?? [];
      const pair = { mac: typeof mac === 'string' ? parseMac(mac) : mac, ip: typeof ip === 'string' ? parseIpv4(ip) : ip, expires: elem?.expires ?? 0 };
      return pair.mac == null || pair.ip == null ? [] : [pair as AddressPair];
    }),
  );
}

/** An element of a set; `parts` as nft prints them. */
export interface SetElement {
  parts: string[];
  /** Its packet counter. */
  packets?: number;
  /** Seconds until it expires. */
  expires?: number;
}

/** All sets of a table with their elements, by name. None if the table does not exist. */
export async function readSets(family: string, table: string): Promise<Map<string, SetElement[]>> {
  type Value = string | number | { concat?: (string | number)[] };
  const text = await readJson(['table', family, table]);
  const { nftables } = JSON.parse(text) as {
    nftables: { set?: { name: string; elem?: (Value | { elem?: { val: Value; counter?: { packets: number }; expires?: number } })[] } }[];
  };
  const found = new Map<string, SetElement[]>();
  for (const { set } of nftables) {
    if (!set) continue;
    const elements = (set.elem ?? []).map((e): SetElement => {
      const elem = typeof e === 'object' && 'elem' in e ? e.elem : undefined;
      const value = elem?.val ?? (e as Value);
      const parts = (typeof value === 'object' ? (value.concat ?? []) : [value]).map(String);
      return {
        parts,
        ...(elem?.counter === undefined ? {} : { packets: elem.counter.packets }),
        ...(elem?.expires === undefined ? {} : { expires: elem.expires }),
      };
    });
    found.set(set.name, elements);
  }
  return found;
}

/** Elements of a set whose type is an interface and an IPv4 address; none if the set does not exist. */
export async function readAddressSet(family: string, table: string, set: string): Promise<{ dev: string; ip: number }[]> {
  const text = await readJson(['set', family, table, set]);
  const { nftables } = JSON.parse(text) as { nftables: { set?: { elem?: { elem?: { val?: { concat?: string[] } } }[] } }[] };
  return nftables
    .flatMap((o) => o.set?.elem ?? [])
    .flatMap((e) => {
      const [dev, address] = e.elem?.val?.concat ?? [];
      const ip = parseIpv4(address ?? '');
      return dev === undefined || ip === null ? [] : [{ dev, ip }];
    });
}
