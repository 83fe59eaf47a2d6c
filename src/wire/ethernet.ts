/** Ethernet II: field offsets from the start of a frame, after its length prefix. */

export const ETH_HEADER = 14;
/** Every station of a link. */
export const BROADCAST_MAC = 0xffff_ffff_ffff;
export const EtherType = { ipv4: 0x0800, arp: 0x0806, vlan: 0x8100, ipv6: 0x86dd } as const;
export const ETH = { destination: 0, source: 6, type: 12, payload: 14 } as const;

export function readMac(u8: Uint8Array, at: number): number {
  return ((u8[at] << 8) | u8[at + 1]) * 0x1_0000_0000 + (((u8[at + 2] << 24) | (u8[at + 3] << 16) | (u8[at + 4] << 8) | u8[at + 5]) >>> 0);
}

export function writeMac(u8: Uint8Array, at: number, mac: number): void {
  const high = Math.floor(mac / 0x1_0000_0000);
  const low = mac >>> 0;
  u8[at] = high >>> 8;
  u8[at + 1] = high;
  u8[at + 2] = low >>> 24;
  u8[at + 3] = low >>> 16;
  u8[at + 4] = low >>> 8;
  u8[at + 5] = low;
}
