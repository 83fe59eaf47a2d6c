/**
 * The addresses that guests of the shared and the host network have set by themselves, as seen on the host (B50).
 *
 * Theory of operation: static-addresses.ts decides. It gets the host's ARP table, the claims that the guard recorded,
 * and the addresses of a network that a NIC may have. Where a NIC has changed its address, its guest is probed by ARP
 * for the others, so that a return to one of them is noticed. A claim is an element of a set in the ruleset, which is
 * replaced as a whole: claims that no poll has read yet are carried over (`unreadClaims`).
 *
 * Limits: IPv4. Four other addresses of a NIC are probed in a poll.
 */
import { probeAddress } from '../../../host/arp-probe.ts';
import { deleteNeighbour, type Neighbour, readNeighbours } from '../../../host/netlink/neighbours.ts';
import { readAddressSet } from '../../../host/nft.ts';
import { broadcastOf, formatIpv4, gatewayOf, subnetContains } from '../../../wire/address.ts';
import type { DesiredNetwork, DesiredNic, DesiredState } from '../../engine.ts';
import { BRIDGES, tapName } from '../names.ts';
import type { ServiceNicStatus } from '../service/config.ts';
import { type KnownNic, StaticAddresses } from './static-addresses.ts';

/** Addresses besides its current one that a NIC is probed for in a poll. */
const MAX_PROBES = 4;

/** A NIC of the shared or the host network. */
type ServedNic = DesiredNic & { type: 'shared' | 'host' };

const isServed = (nic: DesiredNic): nic is ServedNic => nic.type === 'shared' || nic.type === 'host';

export class GuestAddresses {
  readonly #statics = new StaticAddresses();
  #found = new Map<string, number>();
  /** Claims that were in the guard's set at the last poll. */
  #claimsRead = new Set<string>();

  /** The address that the NIC's guest has set by itself. */
  addressOf(id: string): number | null {
    return this.#found.get(id) ?? null;
  }

  /** To be called when the NIC was removed, or attached elsewhere. */
  forget(id: string): void {
    this.#statics.forget(id);
    this.#found.delete(id);
  }

  /** True when an address changed. `claimsPresent`: the guard's set of claims exists. */
  async poll(desired: DesiredState, leases: readonly ServiceNicStatus[], claimsPresent: boolean): Promise<boolean> {
    const nics = desired.nics.filter(isServed);
    const owners = new Map<number, string>();
    for (const s of leases) if (s.ip !== null) owners.set(s.ip, s.id);
    for (const n of nics) if (n.reservedIp !== undefined) owners.set(n.reservedIp, n.id);
    const known = nics.map((n): KnownNic => {
      const s = leases.find((x) => x.id === n.id);
      return { id: n.id, mac: n.outsideMac, leaseIp: s?.ip ?? null, lastDhcp: s?.lastDhcp ?? null };
    });
    const arp = await readNeighbours();
    const neighbours = [...arp, ...(claimsPresent ? await this.#claims(nics) : [])];
    const canHave = ({ id }: KnownNic, n: Neighbour): boolean => {
      const nic = nics.find((x) => x.id === id);
      const network = desired.networks.find((x) => x.name === nic?.type);
      return network !== undefined && n.dev === BRIDGES[network.name] && isFree(n.ip, id, network, owners);
    };
    const before = this.#found;
    const found = this.#statics.update(known, neighbours, canHave, Date.now());
    this.#found = found;
    await Promise.all(
      nics.map((nic) => {
        const lease = known.find((k) => k.id === nic.id)?.leaseIp ?? null;
        return this.#probeOthers(nic, { old: before.get(nic.id) ?? lease, now: found.get(nic.id) ?? lease }, arp, neighbours);
      }),
    );
    return nics.some((n) => found.get(n.id) !== before.get(n.id)) || found.size !== before.size;
  }

  /** Finds out which of its other addresses a NIC's guest no longer uses. */
  async #probeOthers(
    nic: ServedNic,
    { old, now }: { old: number | null; now: number | null },
    arp: readonly Neighbour[],
    neighbours: readonly Neighbour[],
  ): Promise<void> {
    const dev = BRIDGES[nic.type];
    // a NIC whose VM was started again has another outside MAC: the host must not send to the old one
    if (now !== null && arp.some((n) => n.ip === now && n.dev === dev && n.mac !== nic.outsideMac)) deleteNeighbour(now, dev);
    const others = neighbours.filter((n) => n.mac === nic.outsideMac && n.dev === dev && n.ip !== now).slice(0, MAX_PROBES);
    if (others.length === 0) return;
    const answers = async (ip: number): Promise<boolean> => (await probeAddress(ip, dev)) === nic.outsideMac;
    // the previous address is forgotten unless the guest still answers for it: its return has to be noticed
    const previous = now === old ? undefined : others.find((n) => n.ip === old);
    if (previous && !(await answers(previous.ip))) this.#statics.forgetAddress(nic.id, previous.ip);
    // a guest that has returned to one of the others meanwhile does not answer for its newest address
    else if (now !== null && !(await answers(now))) for (const o of others) if (await answers(o.ip)) this.#statics.forgetAddress(nic.id, o.ip);
  }

  /** Addresses without an owner that guests have used in ARP, also in ARP to others than the gateway. */
  async #claims(nics: readonly ServedNic[]): Promise<Neighbour[]> {
    if (nics.length === 0) return [];
    const byTap = new Map(nics.map((n) => [tapName(n.id), n]));
    const claims = await readAddressSet('bridge', 'anka', 'claim');
    this.#claimsRead = new Set(claims.map(claimElement));
    return claims.flatMap(({ dev, ip }) => {
      const nic = byTap.get(dev);
      return nic ? [{ ip, mac: nic.outsideMac, dev: BRIDGES[nic.type] }] : [];
    });
  }

  /** Claims since the last poll, as nft elements. They would be lost when their table is replaced. */
  async unreadClaims(): Promise<string[]> {
    return (await readAddressSet('bridge', 'anka', 'claim')).map(claimElement).filter((c) => !this.#claimsRead.has(c));
  }
}

/** A host address of the network that no other NIC owns. `owners`: NIC ids by leased or reserved address. */
function isFree(ip: number, id: string, { subnet }: DesiredNetwork, owners: ReadonlyMap<number, string>): boolean {
  const owner = owners.get(ip);
  const ofNetwork = ip === subnet.base || ip === gatewayOf(subnet) || ip === broadcastOf(subnet);
  return subnetContains(subnet, ip) && !ofNetwork && (owner === undefined || owner === id);
}

/** A claim as nft writes it. */
function claimElement({ dev, ip }: { dev: string; ip: number }): string {
  return `"${dev}" . ${formatIpv4(ip)}`;
}
