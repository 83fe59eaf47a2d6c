/** nftables: rules are written as text in one transaction, and read back as stateless text, to be compared. */
import { AnkaError } from '../lib/errors.ts';
import { parseIpv4, parseMac } from '../wire/address.ts';
import { run } from './exec.ts';

/** Runs one transaction. */
export async function applyNft(text: string): Promise<void> {
  await run('nft', ['-f', '-'], { input: `${text}\n` });
}

/** A table as nft prints it, without counters and timeouts; null when it is not there. */
export async function listTable(family: string, name: string): Promise<string | null> {
  try {
    return await run('nft', ['-s', 'list', 'table', family, name]);
  } catch (cause) {
    if (cause instanceof AnkaError && cause.kind === 'missingProgram') throw cause;
    return null;
  }
}

/**
 * What nft lists, as JSON; nothing where it is not there. Asked for twice before that is believed: a table that is just
 * being replaced may seem to be gone.
 */
async function readJson(what: readonly string[]): Promise<string> {
  const read = (): Promise<string> => run('nft', ['-j', 'list', ...what]);
  return read()
    .catch(read)
    .catch((cause: AnkaError) => {
      if (cause.kind === 'missingProgram') throw cause;
      return '{"nftables":[]}';
    });
}

/** A table's text without the elements of its dynamic sets, which packets change. */
export function withoutDynamicElements(table: string): string {
  return table.replaceAll(/(set \w+ \{[^{}]*?\bflags [^\n]*\bdynamic\b[^{}]*?)\s*elements = \{[^}]*\}/g, '$1');
}

/** A pair of Ethernet and IPv4 address, and the seconds for which a set keeps it. */
export interface AddressPair {
  mac: number;
  ip: number;
  expires: number;
}

/**
 * Pairs in a set whose elements are an Ethernet and an IPv4 address, by their types or as bare numbers. None where the
 * set is not there.
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

/** An element of a set: its parts as nft writes them, and what is kept with it. */
export interface SetElement {
  parts: string[];
  /** Packets that it has counted. */
  packets?: number;
  /** Seconds until it goes. */
  expires?: number;
}

/** All sets of a table with their elements, by name. None where the table is not there. */
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

/** Elements of a set whose type is an interface and an IPv4 address; empty when the set is not there. */
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
