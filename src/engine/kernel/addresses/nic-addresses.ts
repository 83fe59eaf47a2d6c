/**
 * The IPv4 addresses of each NIC, from all sources: leases, reservations, what guests have set (B50), and what bridged
 * guests use (B52).
 */
import { monotonicMs } from '../../../lib/clock.ts';
import type { AddressSource, DesiredNic, DesiredState, ObservedAddress } from '../../engine.ts';
import { observeAddresses } from '../../observed-addresses.ts';
import type { OwnTransactions } from '../rules/own-transactions.ts';
import type { RuledAddresses } from '../rules/rule-input.ts';
import type { SelfSet, ServiceStatus } from '../service/config.ts';
import { BridgedAddresses } from './bridged-addresses.ts';
import { GuestAddresses } from './guest-addresses.ts';

const served = (nic: DesiredNic): boolean => nic.type === 'shared' || nic.type === 'host';

export class NicAddresses {
  readonly #guests: GuestAddresses;
  readonly #bridged: BridgedAddresses;

  /** `onChange` is called when addresses changed outside of the polls. */
  constructor(runDir: string, log: { warn(o: object, m: string): void }, transactions: OwnTransactions, onChange: () => void) {
    this.#guests = new GuestAddresses(runDir, log, transactions, onChange);
    this.#bridged = new BridgedAddresses(runDir);
  }

  /** What the guest has set by itself on a network with a gateway. */
  readonly selfSetOf = (id: string): SelfSet => {
    const card = this.#guests.cardOf(id);
    return { main: card?.hasStatic ? card.ip : null, all: [...(card?.claims.keys() ?? [])] };
  };

  /** The main address to report, and all of them. */
  addressesOf(nic: DesiredNic): { ip: number | null; source: AddressSource; addresses: ObservedAddress[] } {
    const card = served(nic) ? this.#guests.cardOf(nic.id) : undefined;
    if (card && card.ip >= 0) return { ip: card.ip, source: card.hasStatic ? 'static' : 'lease', addresses: observeAddresses(card, monotonicMs()) };
    const ip = this.#bridged.addressOf(nic);
    return { ip, source: ip === null ? 'none' : 'static', addresses: card ? observeAddresses(card, monotonicMs()) : this.#bridged.addressesOf(nic) };
  }

  /** The addresses that the rules of networks with a gateway apply to. */
  ruledAddressesOf(nic: DesiredNic): RuledAddresses {
    const card = served(nic) ? this.#guests.cardOf(nic.id) : undefined;
    if (!card) return { ip: null, addresses: [], virtual: [], live: [] };
    const addresses = card.list().map((a) => a.ip);
    const live = addresses.filter((ip) => !card.use(ip)?.silent);
    return { ip: card.ip < 0 ? null : card.ip, addresses, virtual: addresses.filter((ip) => card.isVirtual(ip)), live };
  }

  /** Forgets the addresses of NICs that were removed, or attached elsewhere. */
  follow(old: DesiredState, desired: DesiredState): void {
    for (const nic of old.nics) {
      const now = desired.nics.find((n) => n.id === nic.id);
      if (!now || now.type !== nic.type || now.outsideMac !== nic.outsideMac) this.#guests.forget(nic.id);
    }
  }

  forget(id: string): void {
    this.#guests.forget(id);
  }

  /** Takes over leases and reservations. */
  update(desired: DesiredState, status: ServiceStatus | null): void {
    this.#guests.update(desired, status);
  }

  /** Looks for addresses that guests have set. True when one changed. `rulesPresent`: the guard's sets exist. */
  pollGuests(desired: DesiredState, status: ServiceStatus | null, rulesPresent: boolean): Promise<boolean> {
    return this.#guests.poll(desired, status, rulesPresent);
  }

  /** Looks for addresses of bridged guests. True when one changed. */
  pollBridged(nics: readonly DesiredNic[]): boolean {
    return this.#bridged.poll(nics);
  }

  /** Addresses leased to VMs that are not attached. */
  assignedElsewhere(): number[] {
    return this.#guests.assignedElsewhere();
  }

  /** Whether an element of the guard's set `heard` is kept when the rules are replaced. */
  get keepsHeard(): (tap: string, ip: number) => boolean {
    return this.#guests.keepsHeard;
  }

  /** To be called before rules are written. */
  forgetSilent(): Promise<void> {
    return this.#guests.forgetSilent();
  }

  /** To be called when the rules are in force. */
  announceMoved(): void {
    this.#guests.announce();
  }
}
