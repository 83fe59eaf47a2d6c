/**
 * Tables as the seed page draws them (B80): ruled, header underlined with `=`, numbers right-aligned, text
 * left-aligned.
 *
 * A column is as wide as the widest of its cells, its header plus 2, and 7.
 */

export type Cell = string | number;
const MIN_WIDTH = 7;

const rule = (widths: readonly number[], stroke: '-' | '='): string => `+${widths.map((w) => stroke.repeat(w + 2)).join('+')}+`;

function line(cells: readonly Cell[], widths: readonly number[], right: readonly boolean[]): string {
  return `|${cells.map((c, i) => ` ${right[i] ? String(c).padStart(widths[i] as number) : String(c).padEnd(widths[i] as number)} `).join('|')}|`;
}

/** A table with a header. A column that holds only numbers is right-aligned, header included. */
export function grid(header: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const widths = header.map((h, i) => Math.max(MIN_WIDTH, h.length + 2, ...rows.map((r) => String(r[i]).length)));
  const right = header.map((_, i) => rows.length > 0 && rows.every((r) => typeof r[i] === 'number'));
  const out = [rule(widths, '-'), line(header, widths, right), rule(widths, '=')];
  for (const r of rows) out.push(line(r, widths, right), rule(widths, '-'));
  return out.join('\n');
}

/** A table of names and values, without a header. */
export function pairs(rows: readonly (readonly [string, Cell])[]): string {
  const widths = [0, 1].map((i) => Math.max(MIN_WIDTH, ...rows.map((r) => String(r[i as 0 | 1]).length)));
  return [rule(widths, '-'), ...rows.flatMap((r) => [line([r[0], String(r[1])], widths, [false, false]), rule(widths, '-')])].join('\n');
}
