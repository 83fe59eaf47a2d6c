/**
 * Where bridge-type cards are plugged in.
 *
 * Theory of operation: an interface that is a bridge, or in one, lends that bridge: the tap is added to it, and nothing of the host's addresses is touched.
 * Limits: an Ethernet interface outside any bridge is refused for now, with the way out told; wireless, loopback and tunnels are refused always (B17).
 */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import type { DesiredNic } from '../engine.ts';
import type { UplinkBridges } from './plan.ts';

const SYS = '/sys/class/net';

/** What an interface is, for bridge type. */
export function classifyInterface(name: string): { usable: true; bridge: string | null } | { usable: false; why: string } {
  const file = (f: string): string | null => {
    try {
      return readFileSync(`${SYS}/${name}/${f}`, 'utf8').trim();
    } catch {
      return null; // sysfs has a file only where it applies
    }
  };
  const has = (f: string): boolean => existsSync(`${SYS}/${name}/${f}`);
  if (!has('type')) return { usable: false, why: 'does not exist' };
  const type = Number(file('type'));
  if (type === 772) return { usable: false, why: 'is the loopback' };
  if (type !== 1) return { usable: false, why: 'is no Ethernet interface' };
  if (has('wireless') || has('phy80211')) return { usable: false, why: 'is wireless; access points drop frames of other stations' };
  if (has('bridge')) return { usable: true, bridge: name };
  if (has('brport')) return { usable: true, bridge: basename(readlinkSync(`${SYS}/${name}/brport/bridge`)) };
  if (has('tun_flags')) return { usable: false, why: 'is a virtual tunnel' };
  if (!has('device') && !process.env['ANKA_ALLOW_VIRTUAL_UPLINK']) return { usable: false, why: 'is virtual, no Ethernet card' };
  return { usable: true, bridge: null };
}

/** Names of the interfaces that bridge type can use. */
export function usableInterfaces(): string[] {
  return readdirSync(SYS).filter((n) => !n.startsWith('anka') && classifyInterface(n).usable);
}

export class Uplinks {
  #log: { info(o: object, m: string): void };

  constructor(log: { info(o: object, m: string): void }) {
    this.#log = log;
  }

  /** Why a card cannot be bridged as asked, or null. */
  async validate(nic: DesiredNic): Promise<string | null> {
    const name = nic.bridge ?? '';
    const usable = usableInterfaces();
    const choice = usable.length > 0 ? `these can be used: ${usable.join(', ')}` : 'this host has none that could be used';
    if (name === '') return `no Ethernet interface to bridge to; ${choice}`;
    const c = classifyInterface(name);
    if (!c.usable) return `interface ${name} ${c.why}; ${choice}`;
    if (c.bridge === null) return `interface ${name} is in no bridge; put it into one, and name the bridge with -b`;
    return null;
  }

  /** Bridges by the interface that cards ask for. */
  async apply(nics: readonly DesiredNic[], attempt: (object: string, work: () => Promise<unknown>) => Promise<void>): Promise<UplinkBridges> {
    const bridges = new Map<string, string>();
    for (const nic of nics) {
      if (nic.type !== 'bridge') continue;
      await attempt(`nic:${nic.id}`, async () => {
        const problem = await this.validate(nic);
        if (problem) throw new Error(problem);
        const c = classifyInterface(nic.bridge as string);
        if (c.usable && c.bridge) bridges.set(nic.bridge as string, c.bridge);
      });
    }
    if (bridges.size > 0) this.#log.info({ bridges: [...bridges] }, 'uplinks');
    return bridges;
  }

  /** The outside network's address of a bridge-type card, where it is known. */
  addressOf(_nic: DesiredNic): number | null {
    return null;
  }

  /** Removes what was made for bridge type. */
  async removeAll(): Promise<string[]> {
    return [];
  }
}
