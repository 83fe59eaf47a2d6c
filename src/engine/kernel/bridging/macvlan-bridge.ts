/**
 * Bridging by macvlan, if eBPF is not available or `bridge_method` selects it.
 *
 * Theory of operation: each NIC has a macvlan on the interface, with the NIC's outside MAC address, and a bridge of its
 * own with two ports: the macvlan and the NIC's tap. So QEMU keeps its tap on whichever network the NIC is (a macvtap
 * would be another file to open), and the guard, captures and counters work as on every bridge. A bridge takes its
 * ports' addresses for the host's own; that entry is removed, so that frames to the guest are forwarded to the tap.
 * Macvlans of one interface reach each other (mode bridge); that of an isolated NIC (--no-local) reaches only the wire
 * (mode private).
 *
 * Limits: by the nature of macvlan, the host's own stack and the guests cannot reach each other. Without the interface
 * its VMs cannot reach each other. MAC translation and VLANs need eBPF at the tap here, too.
 */
import { createHash } from 'node:crypto';
import { removeOwnEntries } from '../../../host/bridge-entries.ts';
import { type Link, listLinks } from '../../../host/links.ts';
import { changeLinks, type LinkChange, type LinkSettings } from '../../../host/netlink/link-requests.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { formatMac } from '../../../wire/address.ts';
import type { DesiredNic } from '../../engine.ts';
import { cardBridgeNames, GROUP, LABEL } from '../names.ts';
import type { HostGuard } from './host-connectivity.ts';
import { cannotBridge } from './no-touch-bridge.ts';
import { createLinks } from './own-links.ts';

const ETHERNET_MTU = 1500;

/** The bridge's own address, fixed: otherwise a bridge takes that of a port. */
function bridgeMac(id: string): string {
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

  /** Creates and repairs the macvlans and bridges of one interface's NICs. */
  async apply(uplink: string, mtu: number, nics: readonly DesiredNic[], links: readonly Link[]): Promise<void> {
    const link = links.find((l) => l.name === uplink);
    if (!link) throw new AnkaError('network', `interface ${uplink} does not exist`);
    const change = `macvlan ${link.index} ${nics.map((n) => n.outsideMac).join()}`;
    this.#guard.demandNotUndone(uplink, change);
    const work = async (): Promise<void> => {
      try {
        for (const nic of nics) await ensureBridge(uplink, mtu, nic, links);
        for (const nic of nics) removeOwnEntries(cardBridgeNames(nic.id).bridgePort, nic.outsideMac);
      } catch (cause) {
        throw new AnkaError('network', cannotBridge(uplink, `macvlan: ${(cause as Error).message}`), { cause });
      }
    };
    if (links.some((l) => isMacvlanOf(l, uplink))) return work();
    const undo = async (): Promise<void> => {
      for (const l of await listLinks()) if (isMacvlanOf(l, uplink)) changeLinks([{ change: 'delete', name: l.name }]);
    };
    await this.#guard.during({ uplink, change, work, undo });
    this.#log.info({ uplink, vms: nics.length }, 'bridged the interface by macvlan');
  }
}

async function ensureBridge(uplink: string, mtu: number, nic: DesiredNic, links: readonly Link[]): Promise<void> {
  const names = cardBridgeNames(nic.id);
  const mac = formatMac(nic.outsideMac);
  const mode = nic.isolated ? 'private' : 'bridge';
  const label = `${LABEL}card=${nic.id}`;
  const bridge = links.find((l) => l.name === names.bridge);
  const found = links.find((l) => l.name === names.bridgePort);
  const macvlan = found?.kind === 'macvlan' && found.parent === uplink && found.mac === mac ? found : undefined;
  const changes: LinkChange[] = [];
  if (!bridge) changes.push({ change: 'add bridge', name: names.bridge, group: GROUP, mac: bridgeMac(nic.id) });
  if (found && !macvlan) changes.push({ change: 'delete', name: names.bridgePort });
  if (!macvlan) changes.push({ change: 'add macvlan', name: names.bridgePort, group: GROUP, mac, below: uplink, mode });
  else if (macvlan.mode !== mode) changes.push({ change: 'set', name: names.bridgePort, set: { mode } });
  const created: string[] = [];
  if (bridge?.alias !== label) created.push(names.bridge);
  if (macvlan?.alias !== label) created.push(names.bridgePort);
  await createLinks(changes, created, label);
  const settings: LinkChange[] = [];
  const set = (name: string, set: LinkSettings): number => settings.push({ change: 'set', name, set });
  if (!macvlan?.allMulticast) set(names.bridgePort, { allMulticast: true });
  if (macvlan?.mtu !== mtu) set(names.bridgePort, { mtu });
  if (!macvlan || !bridge || macvlan.master !== names.bridge) set(names.bridgePort, { master: names.bridge });
  if (bridge ? bridge.mtu !== mtu : mtu !== ETHERNET_MTU) set(names.bridge, { mtu });
  if (!macvlan?.up) set(names.bridgePort, { up: true });
  if (!bridge?.up) set(names.bridge, { up: true });
  changeLinks(settings);
}

function isMacvlanOf(link: Link, uplink: string): boolean {
  return link.kind === 'macvlan' && link.parent === uplink && link.alias.startsWith(LABEL);
}
