/**
 * The IPv4 address of each NIC, from all sources: leases, what guests have set (B50), and what bridged guests use
 * (B52).
 */
import type { AddressSource, DesiredNic, DesiredState } from '../../engine.ts';
import type { ServiceNicStatus } from '../service/config.ts';
import { BridgedAddresses } from './bridged-addresses.ts';
import { GuestAddresses } from './guest-addresses.ts';

export class NicAddresses {
  readonly #guests = new GuestAddresses();
  readonly #bridged: BridgedAddresses;

  constructor(runDir: string) {
    this.#bridged = new BridgedAddresses(runDir);
  }

  /** The address that the guest has set by itself on a network with a gateway. */
  readonly staticAddressOf = (id: string): number | null => this.#guests.addressOf(id);

  /** The address to report. */
  addressOf(nic: DesiredNic, lease: number | null): { ip: number | null; source: AddressSource } {
    const set = (nic.type === 'bridge' ? this.#bridged.addressOf(nic) : null) ?? this.#guests.addressOf(nic.id);
    if (set !== null) return { ip: set, source: 'static' };
    return { ip: lease, source: lease === null ? 'none' : 'lease' };
  }

  /** The address that the rules of networks with a gateway apply to. */
  ruledAddressOf(nic: DesiredNic, leases: readonly ServiceNicStatus[]): number | null {
    return this.#guests.addressOf(nic.id) ?? leases.find((s) => s.id === nic.id)?.ip ?? null;
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

  /**
   * Looks for addresses that guests have set. True when one changed. `claimsPresent`: the guard's set of claims exists.
   */
  pollGuests(desired: DesiredState, leases: readonly ServiceNicStatus[], claimsPresent: boolean): Promise<boolean> {
    return this.#guests.poll(desired, leases, claimsPresent);
  }

  /** Looks for addresses of bridged guests. True when one changed. */
  pollBridged(nics: readonly DesiredNic[]): Promise<boolean> {
    return this.#bridged.poll(nics);
  }

  /** Reads the guard's sets before they are replaced. Returns claims that no poll has seen: the new set gets them. */
  async readBeforeReplace(nics: readonly DesiredNic[]): Promise<string[]> {
    const unread = await this.#guests.unreadClaims();
    await this.#bridged.poll(nics);
    return unread;
  }
}
