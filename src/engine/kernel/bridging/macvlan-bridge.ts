/**
 * Bridging by macvlan, where the no-touch bridge cannot be: this kernel takes no eBPF from us, or `bridge_method` says
 * so.
 *
 * Theory of operation: every card has a macvlan on the interface, with the card's outside MAC address, and a bridge of
 * its own with two ports: the macvlan and the card's tap. So the tap stays what QEMU has, whatever network the card is
 * moved to (a macvtap would be another file for QEMU to open), and the guard, captures and counters work as on every
 * bridge. A bridge takes its ports' addresses for the host's own; that entry is removed, so that what comes for the
 * guest goes to the tap. Macvlans of one interface reach each other (mode bridge); one of a parted card (--no-local)
 * reaches the wire only (mode private).
 *
 * Limits: what macvlan is made for, the host's own stack is not reached, nor does it reach the guests. Without the
 * interface its VMs do not reach each other. MAC translation and VLANs are eBPF's at the tap, here too.
 */
import { createHash } from 'node:crypto';
import { ipBatch, type Link, listLinks } from '../../../host/links.ts';
import { listOwnEntries, removeOwnEntry } from '../../../host/netlink/bridge-entries.ts';
import { setSysctl } from '../../../host/sysctl.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { formatMac } from '../../../wire/address.ts';
import type { DesiredNic } from '../../engine.ts';
import { cardBridgeNames, GROUP, LABEL } from '../names.ts';
import type { HostGuard } from './host-connectivity.ts';
import { cannotBridge } from './no-touch-bridge.ts';

/** The bridge's own address: never that of a port, which it would take in. */
function ownMac(id: string): string {
  const [a, b, c] = createHash('sha256').update(id).digest();
  return formatMac(0x5a4545000000 + ((a as number) << 16) + ((b as number) << 8) + (c as number));
}

export class MacvlanBridges {
  #guard: HostGuard;
  #log: { info(o: object, m: string): void };

  constructor(log: { info(o: object, m: string): void }, guard: HostGuard) {
    this.#log = log;
    this.#guard = guard;
  }

  /** Makes and keeps what the cards of one interface need. */
  async apply(uplink: string, mtu: number, cards: readonly DesiredNic[], links: readonly Link[]): Promise<void> {
    const nic = links.find((l) => l.name === uplink);
    if (!nic) throw new AnkaError('network', `interface ${uplink} is gone`);
    const wish = `macvlan ${nic.index} ${cards.map((c) => c.outsideMac).join()}`;
    this.#guard.demandUntried(uplink, wish);
    const work = async (): Promise<void> => {
      try {
        for (const card of cards) await this.#bring(uplink, mtu, card, links);
        const own = await listOwnEntries();
        for (const card of cards) {
          const mac = formatMac(card.outsideMac);
          const { plug } = cardBridgeNames(card.id);
          if (own.some((e) => e.port === plug && e.mac === mac)) await removeOwnEntry(plug, mac);
        }
      } catch (cause) {
        throw new AnkaError('network', cannotBridge(uplink, `macvlan: ${(cause as Error).message}`), { cause });
      }
    };
    if (links.some((l) => isMacvlanOf(l, uplink))) return work();
    await this.#guard.during(uplink, wish, work, async () => {
      for (const l of await listLinks()) if (isMacvlanOf(l, uplink)) await ipBatch([`link del dev ${l.name}`]);
    });
    this.#log.info({ uplink, vms: cards.length }, 'the interface has macvlans');
  }

  async #bring(uplink: string, mtu: number, card: DesiredNic, links: readonly Link[]): Promise<void> {
    const names = cardBridgeNames(card.id);
    const bridge = links.find((l) => l.name === names.bridge);
    const mac = formatMac(card.outsideMac);
    const mode = card.isolated ? 'private' : 'bridge';
    const found = links.find((l) => l.name === names.plug);
    const plug = found?.kind === 'macvlan' && found.parent === uplink && found.mac === mac ? found : undefined;
    const lines: string[] = [];
    const made: string[] = [];
    if (!bridge) {
      lines.push(`link add name ${names.bridge} address ${ownMac(card.id)} group ${GROUP} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`);
      made.push(names.bridge);
    }
    if (found && !plug) lines.push(`link del dev ${names.plug}`);
    if (!plug) {
      lines.push(`link add link ${uplink} name ${names.plug} address ${mac} group ${GROUP} type macvlan mode ${mode}`);
      made.push(names.plug);
    } else if (plug.mode !== mode) lines.push(`link set dev ${names.plug} type macvlan mode ${mode}`);
    const label = `${LABEL}card=${card.id}`;
    if (bridge && bridge.alias !== label) made.push(names.bridge);
    if (plug && plug.alias !== label) made.push(names.plug);
    // the host's stack has nothing to do with them: no ARP, no IPv6
    for (const n of made) lines.push(`link set dev ${n} group ${GROUP}`, `link set dev ${n} arp off addrgenmode none`);
    await ipBatch(lines);
    for (const n of made) await setSysctl(`net/ipv6/conf/${n}/disable_ipv6`, '1');
    // the label comes last: what has none is not ready, as after a crash
    await ipBatch(made.map((n) => `link set dev ${n} alias ${label}`));
    const rest: string[] = [];
    if (!plug?.allMulticast) rest.push(`link set dev ${names.plug} allmulticast on`);
    if (plug?.mtu !== mtu) rest.push(`link set dev ${names.plug} mtu ${mtu}`);
    if (!plug || !bridge || plug.master !== names.bridge) rest.push(`link set dev ${names.plug} master ${names.bridge}`);
    if (bridge ? bridge.mtu !== mtu : mtu !== 1500) rest.push(`link set dev ${names.bridge} mtu ${mtu}`);
    if (!plug?.up) rest.push(`link set dev ${names.plug} up`);
    if (!bridge?.up) rest.push(`link set dev ${names.bridge} up`);
    await ipBatch(rest);
  }
}

function isMacvlanOf(link: Link, uplink: string): boolean {
  return link.kind === 'macvlan' && link.parent === uplink && link.alias.startsWith(LABEL);
}
