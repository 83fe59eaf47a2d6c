/** nftables: rules are written as text in one transaction, and read back as stateless text, to be compared. */
import { AnkaError } from '../lib/errors.ts';
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

/** A table's text without the elements of its dynamic sets, which packets change. */
export function withoutDynamicElements(table: string): string {
  return table.replaceAll(/(set (?:drop_\w+|claim) \{[^}]*?)elements = \{[^}]*\}/g, '$1');
}

/** Counters kept in the elements of dynamic sets of a table: set name → element → packets. Elements are single strings. */
export async function readSetCounters(family: string, table: string, prefix: string): Promise<Map<string, Map<string, number>>> {
  const found = new Map<string, Map<string, number>>();
  const text = await run('nft', ['-j', 'list', 'table', family, table]);
  const { nftables } = JSON.parse(text) as { nftables: { set?: { name: string; elem?: unknown[] } }[] };
  for (const { set } of nftables) {
    if (!set?.name.startsWith(prefix)) continue;
    const counts = new Map<string, number>();
    for (const e of set.elem ?? []) {
      const elem = (e as { elem?: { val?: string; counter?: { packets: number } } }).elem;
      if (elem?.val !== undefined && elem.counter) counts.set(elem.val, elem.counter.packets);
    }
    found.set(set.name.slice(prefix.length), counts);
  }
  return found;
}
