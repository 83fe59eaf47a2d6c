/** Checks of option values and operands. Each throws a usage error that names the option and what it accepts. */
import { AnkaError } from '../lib/errors.ts';

/** A whole number, in the range when one is given. */
export function integer(option: string, text: string, range?: { low: number; high: number }): number {
  if (!/^-?\d{1,9}$/.test(text)) throw new AnkaError('usage', `Invalid value for '${option}': '${text}' is not a valid integer.`);
  const n = Number(text);
  if (range && (n < range.low || n > range.high))
    throw new AnkaError('usage', `Invalid value for '${option}': ${text} is not in the range ${range.low}<=x<=${range.high}.`);
  return n;
}

export function choice<T extends string>(option: string, text: string, values: readonly T[]): T {
  if (!values.includes(text as T))
    throw new AnkaError('usage', `Invalid value for '${option}': '${text}' is not one of ${values.map((v) => `'${v}'`).join(', ')}.`);
  return text as T;
}
