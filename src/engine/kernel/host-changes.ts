/**
 * Reports what changes on the host's network, as the kernel notifies of it: interfaces, IPv4 addresses and routes,
 * programs at interfaces, and nftables.
 *
 * Theory of operation: two subscriptions of netlink, whose messages are filtered to what concerns us (link-changes.ts,
 * rules/ruleset-changes.ts). They are opened before the known state is read, so no change is missed. Where messages
 * were lost, everything counts as changed. While nothing changes, nothing runs.
 *
 * Limits: IPv6 addresses and routes do not count, as the engine sets none. The kernel does not notify of programs at
 * tcx hooks, nor of iptables-legacy. So the receiver also checks periodically.
 */
import { readLinks } from '../../host/netlink/link-messages.ts';
import { NETLINK_NETFILTER } from '../../host/netlink/netfilter.ts';
import { readRoutes } from '../../host/netlink/route-messages.ts';
import { NETLINK_ROUTE } from '../../host/netlink/rtnetlink.ts';
import { Subscription } from '../../host/netlink/subscription.ts';
import { LinkChanges } from './link-changes.ts';
import { type RulesetChange, RulesetChanges } from './rules/ruleset-changes.ts';

/** RTNLGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE. */
const ROUTE_GROUPS = [1, 4, 5, 7];
/** NFNLGRP_NFTABLES */
const NETFILTER_GROUPS = [7];
const RETRY_MS = 1000;

export interface HostChangesOptions {
  log: { warn(o: object, m: string): void };
  /** An interface of ours, or one in use, changed, or a route that concerns us. */
  onLinks: () => void;
  /** A program, or this one, changed rules. */
  onRules: (change: RulesetChange) => void;
  /** Anything may have changed. */
  onUnknown: () => void;
}

export class HostChanges {
  readonly #options: HostChangesOptions;
  readonly #links = new LinkChanges();
  #subscriptions: Subscription[] = [];
  #retry: NodeJS.Timeout | null = null;

  constructor(options: HostChangesOptions) {
    this.#options = options;
  }

  /** Sets the names of the host's interfaces that count, in addition to ours. */
  watch(names: Iterable<string>): void {
    this.#links.watch(names);
  }

  /** Has no effect if it is called again. Tries again later where the kernel refuses. */
  start(): void {
    if (this.#subscriptions.length > 0 || this.#retry) return;
    try {
      this.#subscribe();
    } catch (cause) {
      this.stop();
      this.#options.log.warn({ error: (cause as Error).message }, 'changes of the host are only found by periodic checks');
      this.#retry = setTimeout(() => {
        this.#retry = null;
        this.start();
      }, RETRY_MS).unref();
    }
  }

  #subscribe(): void {
    const { onLinks, onRules, onUnknown } = this.#options;
    const rules = new RulesetChanges();
    const links = new Subscription({
      protocol: NETLINK_ROUTE,
      groups: ROUTE_GROUPS,
      onMessage: (message) => {
        if (this.#links.concerns(message)) onLinks();
      },
      onLost: () => {
        this.#readAgain();
        onUnknown();
      },
    });
    this.#subscriptions.push(links);
    this.#links.reset(readLinks(), readRoutes());
    const ruleset = new Subscription({
      protocol: NETLINK_NETFILTER,
      groups: NETFILTER_GROUPS,
      onMessage: (message) => {
        const change = rules.take(message);
        if (change) onRules(change);
      },
      onLost: onUnknown,
    });
    this.#subscriptions.push(ruleset);
  }

  #readAgain(): void {
    try {
      this.#links.reset(readLinks(), readRoutes());
    } catch (cause) {
      this.#options.log.warn({ error: (cause as Error).message }, 'the interfaces cannot be read');
    }
  }

  stop(): void {
    for (const s of this.#subscriptions) s.close();
    this.#subscriptions = [];
    if (this.#retry) clearTimeout(this.#retry);
    this.#retry = null;
  }
}
