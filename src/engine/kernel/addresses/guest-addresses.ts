/**
 * The addresses that guests of the shared and the host network have set by themselves, found out on the host (B50).
 *
 * Theory of operation: static-addresses.ts decides; here it is fed with the host's ARP table and the claims that the
 * guard noted, and told which addresses of a network a card may have. Where a card has changed its address, its guest
 * is asked by ARP whether it still answers for the others, so that a return to one of them is news. A claim stands in a
 * set of the ruleset, which is replaced as a whole: those that nobody has read yet are handed over to the next one
 * (`unreadClaims`). Limits: IPv4. Four other addresses of a card are asked for at a look.
 */
import { probeAddress } from '../../../host/arp-probe.ts';
import { forgetNeighbour, type Neighbour, readNeighbours } from '../../../host/netlink/neighbours.ts';
import { readAddressSet } from '../../../host/nft.ts';
import { broadcastOf, formatIpv4, gatewayOf, subnetContains } from '../../../wire/address.ts';
import type { DesiredNic, DesiredState } from '../../engine.ts';
import { BRIDGES, tapName } from '../names.ts';
import type { ServiceNicStatus } from '../service/config.ts';
import { StaticAddresses } from './static-addresses.ts';

/** Addresses besides its own that a card is asked for at a look. */
const MOST_OTHERS = 4;

export class GuestAddresses {
  #statics = new StaticAddresses();
  #found = new Map<string, number>();
  /** Claims that were in the guard's set at the last look. */
  #claimsRead = new Set<string>();

  /** The address that the card's guest has set by itself. */
  addressOf(id: string): number | null {
    return this.#found.get(id) ?? null;
  }

  /** The card is gone, or another. */
  forget(id: string): void {
    this.#statics.forget(id);
    this.#found.delete(id);
  }

  /** Looks; true when an address changed. `claimsKept`: the guard's set of claims is there. */
  async look(desired: DesiredState, leases: readonly ServiceNicStatus[], claimsKept: boolean): Promise<boolean> {
    const nics = desired.nics.filter((n) => n.type === 'shared' || n.type === 'host');
    const taken = new Map<number, string>();
    for (const s of leases) if (s.ip !== null) taken.set(s.ip, s.id);
    for (const n of nics) if (n.reservedIp !== undefined) taken.set(n.reservedIp, n.id);
    const known = nics.map((n) => {
      const s = leases.find((x) => x.id === n.id);
      return { id: n.id, mac: n.outsideMac, leaseIp: s?.ip ?? null, lastDhcp: s?.lastDhcp ?? null };
    });
    const arp = await readNeighbours();
    const neighbours = [...arp, ...(claimsKept ? await this.#claims(nics) : [])];
    const found = this.#statics.update(
      known,
      neighbours,
      (k, n) => {
        const nic = nics.find((x) => x.id === k.id) as DesiredNic;
        const network = desired.networks.find((x) => x.name === nic.type);
        if (!network || n.dev !== BRIDGES[network.name]) return false;
        const owner = taken.get(n.ip);
        return (
          subnetContains(network.subnet, n.ip) &&
          n.ip !== gatewayOf(network.subnet) &&
          n.ip !== network.subnet.base &&
          n.ip !== broadcastOf(network.subnet) &&
          (owner === undefined || owner === nic.id)
        );
      },
      Date.now(),
    );
    const before = this.#found;
    this.#found = found;
    await Promise.all(
      nics.map((nic) => {
        const lease = known.find((k) => k.id === nic.id)?.leaseIp ?? null;
        return this.#askForOthers(nic, before.get(nic.id) ?? lease, found.get(nic.id) ?? lease, arp, neighbours);
      }),
    );
    return nics.some((n) => found.get(n.id) !== before.get(n.id)) || found.size !== before.size;
  }

  /** Finds out which of its earlier addresses a card's guest has left. */
  async #askForOthers(nic: DesiredNic, old: number | null, now: number | null, arp: readonly Neighbour[], neighbours: readonly Neighbour[]): Promise<void> {
    // a card that was started again has another outside address: the host must not go on sending to the one before
    const dev = BRIDGES[nic.type as 'shared' | 'host'];
    if (now !== null && arp.some((n) => n.ip === now && n.dev === dev && n.mac !== nic.outsideMac)) forgetNeighbour(now, dev);
    const others = neighbours.filter((n) => n.mac === nic.outsideMac && n.dev === dev && n.ip !== now).slice(0, MOST_OTHERS);
    if (others.length === 0) return;
    const answers = async (ip: number): Promise<boolean> => (await probeAddress(ip, dev)) === nic.outsideMac;
    // the address of before is forgotten unless its guest still answers: if it comes back, that is news
    const previous = now === old ? undefined : others.find((n) => n.ip === old);
    if (previous && !(await answers(previous.ip))) this.#statics.left(nic.id, previous.ip);
    // a guest that has gone back to one of them meanwhile does not answer for its newest address
    else if (now !== null && !(await answers(now))) for (const o of others) if (await answers(o.ip)) this.#statics.left(nic.id, o.ip);
  }

  /** What guests have said by ARP, also to others than the gateway, of addresses that are not theirs yet. */
  async #claims(nics: readonly DesiredNic[]): Promise<Neighbour[]> {
    if (nics.length === 0) return [];
    const byTap = new Map(nics.map((n) => [tapName(n.id), n]));
    const claims = await readAddressSet('bridge', 'anka', 'claim');
    this.#claimsRead = new Set(claims.map(claimElement));
    return claims.flatMap(({ dev, ip }) => {
      const nic = byTap.get(dev);
      return nic ? [{ ip, mac: nic.outsideMac, dev: BRIDGES[nic.type as 'shared' | 'host'] }] : [];
    });
  }

  /** Claims that came since the last look, as nft writes them: they would go with the table that they stand in. */
  async unreadClaims(): Promise<string[]> {
    return (await readAddressSet('bridge', 'anka', 'claim')).map(claimElement).filter((c) => !this.#claimsRead.has(c));
  }
}

/** A claim as nft writes it. */
function claimElement({ dev, ip }: { dev: string; ip: number }): string {
  return `"${dev}" . ${formatIpv4(ip)}`;
}
