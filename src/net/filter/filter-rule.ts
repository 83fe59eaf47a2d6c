/**
 * The rules of a VM's packet filter (docs/filters.md).
 *
 * A filter is the text that its owner wrote, one rule a line, in the grammar of Anka, which follows ipf.conf(5). The
 * first rule that matches a packet decides; what no rule matches passes.
 */
import type { SubnetLike } from '../../wire/address.ts';
import { IpProtocol } from '../../wire/ipv4.ts';

/** Bytes of a filter, and its rules. */
export const MAX_FILTER_BYTES = 32_768;
export const MAX_FILTER_RULES = 256;

export type FilterAction = 'pass' | 'block';
/** As the VM sees it. `any`: both; `local`: both, between the VM and the host or other VMs. */
export type FilterDirection = 'in' | 'out' | 'any' | 'local';

/** Ports, both ends included. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** One side of a packet; null = any. */
export interface FilterEnd {
  readonly subnet: SubnetLike | null;
  readonly ports: PortRange | null;
}

export interface FilterRule {
  /** Number of its line in the text, from 1, and the line without blanks around it. */
  readonly line: number;
  readonly text: string;
  readonly action: FilterAction;
  readonly direction: FilterDirection;
  /** IP protocols that it applies to; empty = all. */
  readonly protocols: readonly number[];
  readonly from: FilterEnd;
  readonly to: FilterEnd;
}

/** Protocols with ports. */
export const PORT_PROTOCOLS: readonly number[] = [IpProtocol.tcp, IpProtocol.udp];

export const namesPorts = (rule: FilterRule): boolean => rule.from.ports !== null || rule.to.ports !== null;

/** A rule as `explain` and messages name it. */
export const ruleTitle = (rule: FilterRule): string => `filter line ${rule.line}: ${rule.text}`;
