/** The kernel's ARP table, read without starting a program. */
import { readFile } from 'node:fs/promises';
import { parseIpv4, parseMac } from '../wire/address.ts';

export interface Neighbour {
  ip: number;
  mac: number;
  dev: string;
}

/** Complete entries of /proc/net/arp. */
export function parseArpTable(text: string): Neighbour[] {
  return text
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const [address, , flags, hw, , dev] = line.trim().split(/\s+/);
      const ip = parseIpv4(address ?? '');
      const mac = parseMac(hw ?? '');
      return ip === null || mac === null || mac === 0 || dev === undefined || Number(flags) === 0 ? [] : [{ ip, mac, dev }];
    });
}

export async function readNeighbours(): Promise<Neighbour[]> {
  return parseArpTable(await readFile('/proc/net/arp', 'utf8').catch(() => ''));
}
