/**
 * The addresses of NICs of the shared and the host network (B50), on the kernel engine.
 *
 * Theory of operation: net/addresses/address-table.ts decides, one table per network. The guard in nft records who sent
 * ARP from which address: `heard` has the addresses that a NIC owns or has claimed, `contested` those that are virtual
 * at another NIC, `unheard` those that a guest sends from without ARP, for which it is asked: its answer is a claim.
 * `poll` feeds new elements to the tables. What the tables ask for, the host asks by ARP; only the
 * owner can answer, as the guard drops the answers of others. Addresses that guests have set themselves are kept in a
 * file, so that a new daemon knows them.
 *
 * Limits: IPv4. A claim is seen at the next poll, within a second.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { sendFrame } from '../../../host/ffi/send-frame.ts';
import { JsonRecord } from '../../../host/json-record.ts';
import { deleteNeighbour, readNeighbours } from '../../../host/netlink/neighbours.ts';
import { readSet } from '../../../host/netlink/sets.ts';
import { monotonicMs } from '../../../lib/clock.ts';
import { type AddressAction, AddressTable, PROBE_MS } from '../../../net/addresses/address-table.ts';
import { CardAddresses } from '../../../net/addresses/card-addresses.ts';
import { canClaim } from '../../../net/policy/addresses.ts';
import { areIsolated } from '../../../net/policy/isolation.ts';
import { formatIpv4 } from '../../../wire/address.ts';
import { announcementOf, arpFrame } from '../../../wire/arp.ts';
import type { DesiredNetwork, DesiredNic, DesiredState } from '../../engine.ts';
import { BRIDGES, tapName } from '../names.ts';
import { CONTESTED, HEARD, HEARD_SECONDS, UNHEARD } from '../rules/bridge-table.ts';
import type { OwnTransactions } from '../rules/own-transactions.ts';
import type { ServiceStatus } from '../service/config.ts';
import { askGuest, askGuests } from './arp-requests.ts';

type Log = { warn(o: object, m: string): void };

/** A NIC of the shared or the host network. */
type ServedNic = DesiredNic & { type: 'shared' | 'host' };
type NetworkName = DesiredNetwork['name'];
/** An interface's name in the key of an element, padded with zeros. */
const INTERFACE_BYTES = 16;

/** Addresses that a NIC's guest has set, on this network, as this MAC address. */
interface KnownAddresses {
  network: NetworkName;
  mac: number;
  ips: number[];
}

const isServed = (nic: DesiredNic): nic is ServedNic => nic.type === 'shared' || nic.type === 'host';

interface Served {
  network: DesiredNetwork;
  table: AddressTable<CardAddresses>;
}

export class GuestAddresses {
  readonly #known: JsonRecord<KnownAddresses>;
  readonly #onChange: () => void;
  readonly #log: Log;
  readonly #served = new Map<NetworkName, Served>();
  readonly #cards = new Map<string, CardAddresses>();
  #nics: readonly ServedNic[] = [];
  /** Elements of `heard` at the last poll. */
  #heardBefore = new Set<string>();
  #changed = false;
  #asking = false;
  /** Moved addresses that are to be announced once the rules are in force. */
  #moved: AddressAction<CardAddresses>[] = [];

  /** `onChange` is called when addresses changed outside of `poll`. */
  readonly #transactions: OwnTransactions;

  constructor(runDir: string, log: Log, transactions: OwnTransactions, onChange: () => void) {
    this.#transactions = transactions;
    this.#known = new JsonRecord(`${runDir}/guest-addresses.json`);
    this.#log = log;
    this.#onChange = onChange;
  }

  /** The NIC's addresses; undefined before its network was served. */
  cardOf(id: string): CardAddresses | undefined {
    return this.#cards.get(id);
  }

  /** To be called when the NIC was removed, or attached elsewhere. */
  forget(id: string): void {
    const card = this.#cards.get(id);
    this.#cards.delete(id);
    card?.claims.clear();
    if (this.#known.entries.delete(id)) this.#known.trySave();
  }

  /** Sets networks, NICs and what is assigned to them. To be called before NICs are configured elsewhere. */
  update(desired: DesiredState, status: ServiceStatus | null): void {
    const now = monotonicMs();
    this.#nics = desired.nics.filter(isServed);
    for (const name of this.#served.keys()) if (!desired.networks.some((n) => n.name === name)) this.#served.delete(name);
    for (const network of desired.networks) {
      const { table } = this.#tableOf(network);
      const cards = this.#nics.filter((n) => n.type === network.name).map((nic) => this.#cardOf(nic, status));
      table.setCards(cards, status?.networks.find((n) => n.name === network.name)?.leasedToOthers ?? [], now);
      for (const nic of this.#nics) if (nic.type === network.name) this.#restore(table, nic);
    }
  }

  #tableOf(network: DesiredNetwork): Served {
    const known = this.#served.get(network.name);
    if (known && JSON.stringify(known.network) === JSON.stringify(network)) return known;
    const onChange = (): void => {
      this.#changed = true;
    };
    const served = { network, table: new AddressTable<CardAddresses>(network.subnet, onChange) };
    this.#served.set(network.name, served);
    return served;
  }

  #cardOf(nic: ServedNic, status: ServiceStatus | null): CardAddresses {
    const card = this.#cards.get(nic.id) ?? new CardAddresses(nic.id);
    card.leaseIp = status?.nics.find((s) => s.id === nic.id)?.ip ?? -1;
    card.reservedIp = nic.reservedIp ?? -1;
    return card;
  }

  /** Adopts what the file has of a NIC that is new here. */
  #restore(table: AddressTable<CardAddresses>, nic: ServedNic): void {
    if (this.#cards.has(nic.id)) return;
    const card = table.cards.find((c) => c.id === nic.id) as CardAddresses;
    this.#cards.set(nic.id, card);
    const known = this.#known.entries.get(nic.id);
    if (known && known.network === nic.type && known.mac === nic.outsideMac) table.restore(card, known.ips, monotonicMs());
  }

  /** True when an address changed. `rulesPresent`: the guard's sets exist. */
  async poll(desired: DesiredState, status: ServiceStatus | null, rulesPresent: boolean): Promise<boolean> {
    this.update(desired, status);
    if (this.#nics.length === 0) return false;
    if (rulesPresent) this.#readClaims();
    await this.#dropStaleNeighbours();
    await this.forgetSilent();
    this.#ask();
    return this.#takeChanged();
  }

  #takeChanged(): boolean {
    const changed = this.#changed;
    this.#changed = false;
    if (changed || this.#known.unsaved) this.#save();
    return changed;
  }

  #readClaims(): void {
    const heard = readClaims(HEARD);
    const before = this.#heardBefore;
    this.#heardBefore = new Set(heard.map(elementOf));
    const now = monotonicMs();
    for (const e of heard) {
      const found = this.#find(e.dev);
      const use = found?.card.use(e.ip);
      if (found && !before.has(elementOf(e))) found.table.claim(found.card, e.ip, now);
      else if (use) use.heard = Math.max(use.heard, now - (HEARD_SECONDS - e.expires) * 1000);
    }
    this.#askForUnheard();
    if (![...this.#served.values()].some((s) => s.table.virtual().length > 0)) return;
    for (const e of readClaims(CONTESTED)) {
      const found = this.#find(e.dev);
      found?.table.claim(found.card, e.ip, now);
    }
  }

  /** A guest that knows the gateway's MAC address may send from a further address and never announce it. */
  #askForUnheard(): void {
    for (const { dev, ip } of readClaims(UNHEARD)) {
      const found = this.#find(dev);
      if (found && canClaim(found.network.subnet, ip, found.table.ownerOf(ip) !== undefined)) askGuest(found.network, found.card.id, ip);
    }
  }

  #find(tap: string): (Served & { card: CardAddresses }) | null {
    const nic = this.#nics.find((n) => tapName(n.id) === tap);
    const card = nic && this.#cards.get(nic.id);
    const served = nic && this.#served.get(nic.type);
    return card && served ? { ...served, card } : null;
  }

  /** A NIC whose VM was started again has another outside MAC: the host must not send to the old one. */
  async #dropStaleNeighbours(): Promise<void> {
    for (const { ip, mac, dev } of readNeighbours()) {
      const owner = this.#nics.find((n) => BRIDGES[n.type] === dev && this.#cards.get(n.id)?.owns(ip));
      if (owner && owner.outsideMac !== mac) deleteNeighbour(ip, dev);
    }
  }

  /** Asks guests by ARP for as long as a table demands it. */
  #ask(): void {
    if (this.#asking) return;
    this.#asking = true;
    this.#askAll()
      // the next poll asks again
      .catch((cause: Error) => this.#log.warn({ error: cause.message }, 'asking guests for their addresses'))
      .finally(() => {
        this.#asking = false;
      });
  }

  async #askAll(): Promise<void> {
    for (;;) {
      for (const served of this.#served.values()) await this.#askFor(served);
      if (this.#changed) this.#onChange();
      const due = [...this.#served.values()].flatMap(({ table }) => table.pollAt() ?? []);
      if (due.length === 0) break;
      await sleep(Math.max(1, Math.min(...due) - monotonicMs()), undefined, { ref: false });
    }
  }

  async #askFor({ network, table }: Served): Promise<void> {
    const actions = table.poll(monotonicMs());
    this.#moved.push(...actions.filter((a) => a.kind === 'moved'));
    const asked = actions.flatMap(({ kind, card, ip }) => (kind === 'probe' ? [{ id: card.id, card, ip }] : []));
    if (asked.length === 0) return;
    const answers = await askGuests(network, asked, PROBE_MS);
    for (const { card, ip } of asked) {
      const nic = this.#nics.find((n) => n.id === card.id);
      if (nic && answers.get(ip) === nic.outsideMac) table.claim(card, ip, monotonicMs(), true);
    }
  }

  /** Announces addresses that have moved. To be called when the rules are in force. */
  announce(): void {
    for (const { card, ip } of this.#moved.splice(0)) {
      const nic = this.#nics.find((n) => n.id === card.id);
      if (!nic || !card.owns(ip)) continue;
      deleteNeighbour(ip, BRIDGES[nic.type]);
      const frame = arpFrame(announcementOf(nic.outsideMac, ip));
      for (const other of this.#nics) if (other !== nic && other.type === nic.type && !areIsolated(other, nic)) sendFrame(tapName(other.id), frame);
    }
  }

  #save(): void {
    const known = this.#known.entries;
    known.clear();
    for (const nic of this.#nics) {
      const claims = this.#cards.get(nic.id)?.claims;
      if (claims && claims.size > 0) known.set(nic.id, { network: nic.type, mac: nic.outsideMac, ips: [...claims.keys()] });
    }
    this.#known.trySave();
  }

  /** Addresses leased to VMs that are not attached. */
  assignedElsewhere(): number[] {
    return [...this.#served.values()].flatMap(({ table }) => table.absent);
  }

  /** Whether an element of `heard` is kept when the rules are replaced: the NIC owns it, or no poll has seen it yet. */
  readonly keepsHeard = (tap: string, ip: number): boolean => !this.#heardBefore.has(elementOf({ dev: tap, ip })) || (this.#find(tap)?.card.owns(ip) ?? false);

  /** Removes elements of `heard` that a NIC does not use any more, so that a return to them is seen. */
  async forgetSilent(): Promise<void> {
    const used = new Set<string>();
    for (const nic of this.#nics) {
      const card = this.#cards.get(nic.id);
      for (const { ip } of card?.list() ?? []) if (!card?.use(ip)?.silent) used.add(elementOf({ dev: tapName(nic.id), ip }));
    }
    const silent = [...this.#heardBefore].filter((e) => !used.has(e));
    if (silent.length === 0) return;
    try {
      await this.#transactions.apply(`delete element bridge anka ${HEARD} { ${silent.join(', ')} }`);
      for (const e of silent) this.#heardBefore.delete(e);
    } catch {
      // one has expired just now: the next poll tries the others again
    }
  }
}

/** An element of the guard's sets as nft writes it. */
function elementOf({ dev, ip }: { dev: string; ip: number }): string {
  return `"${dev}" . ${formatIpv4(ip)}`;
}

/** Elements of one of the guard's sets of interfaces and addresses. `expires` in seconds. */
function readClaims(set: string): { dev: string; ip: number; expires: number }[] {
  return readSet('bridge', 'anka', set).flatMap(({ key, expires = 0 }) => {
    if (key.length < INTERFACE_BYTES + 4) return [];
    return { dev: key.toString('latin1', 0, INTERFACE_BYTES).replace(/\0.*$/s, ''), ip: key.readUInt32BE(INTERFACE_BYTES), expires };
  });
}
