/** The parts of nft's syntax that every table uses. */

export const quoted = (name: string): string => `"${name}"`;

/** An anonymous set. */
export const anyOf = (items: readonly (string | number)[]): string => `{ ${items.join(', ')} }`;

/** The elements in the definition of a set or map. */
export const elements = (items: readonly string[]): string => (items.length > 0 ? ` elements = ${anyOf(items)}` : '');

export const table = (family: string, sections: readonly string[], name = 'anka'): string => `table ${family} ${name} {\n${sections.join('\n')}\n}`;

/** A set that only the engine fills. */
export const fixedSet = (name: string, type: string, items: readonly string[]): string => `  set ${name} { type ${type};${elements(items)}; }`;

/** A set that rules fill: with a counter or a rate for each element. */
export const dynamicSet = (name: string, type: string, size = 65_535): string => `  set ${name} { type ${type}; size ${size}; flags dynamic; }`;

/** A set that rules fill, and whose elements expire unless they are renewed. `key` as in `type ifname`. */
export const expiringSet = (name: string, key: string, options: { size: number; timeout: string }): string =>
  `  set ${name} { ${key}; size ${options.size}; flags dynamic,timeout; timeout ${options.timeout}; }`;

export const chain = (name: string, lines: readonly string[]): string => `  chain ${name} {\n${lines.map((l) => `    ${l}`).join('\n')}\n  }`;

/** First line of a base chain. What no rule drops goes on to the tables of others. */
export const baseChain = (type: 'filter' | 'nat', hook: string, priority: string | number): string =>
  `type ${type} hook ${hook} priority ${priority}; policy accept;`;

/** Limit of an element of a dynamic set: matches what exceeds `burst` packets at once, and `burst` packets in `ms`. */
export const rateOver = (burst: number, ms: number): string => `limit rate over ${(burst * 1000) / ms}/second burst ${burst} packets`;
