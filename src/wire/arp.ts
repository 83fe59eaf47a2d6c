/** ARP for IPv4 over Ethernet (RFC 826): 28 bytes. Limits: no other hardware or protocol. */
import { get16, get32, put16, put32 } from './bytes.ts';
import { ETH, ETH_HEADER, EtherType, readMac, writeMac } from './ethernet.ts';

export const ARP_SIZE = 28;
export const ArpOp = { request: 1, reply: 2 } as const;

const OFF = { hardware: 0, protocol: 2, hardwareSize: 4, protocolSize: 5, op: 6, senderMac: 8, senderIp: 14, targetMac: 18, targetIp: 24 } as const;

/** Whether it is complete ARP for IPv4 over Ethernet. After true, no accessor reads beyond the end. */
export function checkArp(b: Uint8Array, o: number, end: number): boolean {
  return end - o >= ARP_SIZE && get16(b, o) === 1 && get16(b, o + OFF.protocol) === 0x0800 && b[o + OFF.hardwareSize] === 6 && b[o + OFF.protocolSize] === 4;
}

export const arpOp = (b: Uint8Array, o: number): number => get16(b, o + OFF.op);
export const arpSenderMac = (b: Uint8Array, o: number): number => readMac(b, o + OFF.senderMac);
export const arpSenderIp = (b: Uint8Array, o: number): number => get32(b, o + OFF.senderIp);
export const arpTargetMac = (b: Uint8Array, o: number): number => readMac(b, o + OFF.targetMac);
export const arpTargetIp = (b: Uint8Array, o: number): number => get32(b, o + OFF.targetIp);
export const setArpSenderMac = (b: Uint8Array, o: number, mac: number): void => writeMac(b, o + OFF.senderMac, mac);
export const setArpTargetMac = (b: Uint8Array, o: number, mac: number): void => writeMac(b, o + OFF.targetMac, mac);

export interface Arp {
  op: number;
  senderMac: number;
  senderIp: number;
  targetMac: number;
  targetIp: number;
}

export function emitArp(b: Uint8Array, o: number, a: Arp): void {
  put16(b, o, 1);
  put16(b, o + OFF.protocol, 0x0800);
  b[o + OFF.hardwareSize] = 6;
  b[o + OFF.protocolSize] = 4;
  put16(b, o + OFF.op, a.op);
  writeMac(b, o + OFF.senderMac, a.senderMac);
  put32(b, o + OFF.senderIp, a.senderIp);
  writeMac(b, o + OFF.targetMac, a.targetMac);
  put32(b, o + OFF.targetIp, a.targetIp);
}

/** A broadcast frame, padded to the least size of Ethernet. */
export function arpFrame(a: Arp): Uint8Array {
  const frame = new Uint8Array(60);
  frame.fill(0xff, 0, 6);
  writeMac(frame, ETH.source, a.senderMac);
  put16(frame, ETH.type, EtherType.arp);
  emitArp(frame, ETH_HEADER, a);
  return frame;
}

/** Gratuitous ARP: `mac` has an address (RFC 5227, 3). */
export const announcementOf = (mac: number, ip: number): Arp => ({ op: ArpOp.request, senderMac: mac, senderIp: ip, targetMac: 0, targetIp: ip });
