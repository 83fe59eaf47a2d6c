/**
 * What transactions of nftables change, by the messages that the kernel sends of them: pure, but for the transaction
 * that is under way.
 *
 * Theory of operation: the messages of a transaction end with its generation. Transactions that only change elements of
 * other programs' sets do not concern us.
 */
import { textOf } from '../../../host/netlink/netfilter.ts';
import type { NetlinkMessage } from '../../../host/netlink/netlink.ts';
import { attributes } from '../../../host/netlink/netlink.ts';
import { isOurTable } from '../names.ts';

/** NFNL_SUBSYS_NFTABLES */
const NFTABLES = 10;
/** NFT_MSG_*: NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE. */
const RULES = new Set([0, 2, 3, 5, 6, 8]);
const NEW_GENERATION = 15;
/** The same number in messages of every kind. */
const TABLE = 1;
const GENERATION_ID = 1;
/** Length of netfilter's header. */
const HEADER = 4;

export interface RulesetChange {
  generation: number;
  /** It changed a table of ours. */
  isOnOurs: boolean;
}

export class RulesetChanges {
  #ours = false;
  #rules = false;

  /** A transaction that ends with this message, and concerns us; else null. */
  take({ type, body }: NetlinkMessage): RulesetChange | null {
    if (type >>> 8 !== NFTABLES || body.length < HEADER) return null;
    const kind = type & 0xff;
    if (kind !== NEW_GENERATION) {
      this.#ours ||= isOurTable(textOf(body.subarray(HEADER), TABLE));
      this.#rules ||= RULES.has(kind);
      return null;
    }
    const found = this.#ours || this.#rules ? { generation: generationOf(body), isOnOurs: this.#ours } : null;
    this.#ours = false;
    this.#rules = false;
    return found;
  }
}

function generationOf(body: Buffer): number {
  const payload = attributes(body.subarray(HEADER)).get(GENERATION_ID)?.payload;
  return payload?.length === 4 ? payload.readUInt32BE() : 0;
}
