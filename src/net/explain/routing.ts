/** The host's routing, as `explain` asks it. */
import { type SubnetLike, subnetContains } from '../../wire/address.ts';

export interface RouteQuery {
  to: number;
  /** Absent: the host's own address, of its choice. */
  from?: number;
  /** The interface by which it entered the host; absent: the host sends it. */
  iif?: string;
  protocol?: string;
  port?: number;
}

export interface RouteAnswer {
  /** The interface that the packet leaves by; null where it goes nowhere. */
  dev: string | null;
  failure: 'none' | 'unreachable' | 'prohibited' | 'blackhole' | 'source' | null;
  /** The host's address that it would send from; null when it is not known. */
  source: number | null;
  /** The rule and route that decide, in words; empty where it is an ordinary route of the main table. */
  decidedBy: string;
}

export type LookUpRoute = (query: RouteQuery) => RouteAnswer;

/** By the longest matching prefix alone, where nothing else is known. */
export function byLongestPrefix(routes: readonly (SubnetLike & { dev: string })[]): LookUpRoute {
  return ({ to }) => {
    const best = routes.filter((r) => subnetContains(r, to)).reduce<(typeof routes)[number] | null>((a, r) => (a && a.prefix >= r.prefix ? a : r), null);
    return { dev: best?.dev ?? null, failure: best ? null : 'none', source: null, decidedBy: '' };
  };
}

/** The ICMP error that the sender of a packet gets; absent: none. */
export const ICMP_ERRORS: Partial<Record<NonNullable<RouteAnswer['failure']>, string>> = {
  none: 'network unreachable',
  unreachable: 'host unreachable',
  prohibited: 'packet filtered',
};

/** Why a packet is not routed to `what`. */
export function failureReason({ failure, decidedBy }: RouteAnswer, what: string): string {
  const by = decidedBy === '' ? 'the host' : decidedBy;
  switch (failure) {
    case 'prohibited':
      return `${by} prohibits what goes to ${what}`;
    case 'blackhole':
      return `${by} drops what goes to ${what}`;
    case 'unreachable':
      return `${by} makes ${what} unreachable`;
    case 'source':
      return 'the reverse path filter (rp_filter) drops it, as answers to its source would leave by another interface';
    default:
      return `the host has no route to ${what}`;
  }
}

/** The rule that decides about a packet which is not routed. */
export const failureRule = ({ failure, decidedBy }: RouteAnswer): string =>
  failure === 'source' ? 'rp_filter' : decidedBy === '' ? "the host's routing" : decidedBy;

/** Words for a step: what decided, if it is not an ordinary route. */
export const byWhat = ({ decidedBy }: RouteAnswer): string => (decidedBy === '' ? '' : `, by ${decidedBy}`);
