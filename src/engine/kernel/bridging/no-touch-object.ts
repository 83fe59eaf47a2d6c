/** The variable `config` of bpf/no-touch-bridge.bpf.c: the interfaces, and the addresses of VMs and host. Pure. */
import { AnkaError } from '../../../lib/errors.ts';

/** Most VMs of one interface: the size of the program's table. */
const TABLE_SIZE = 256;
const IS_VM = 1;
const IS_ISOLATED = 2;

export interface NoTouchConfig {
  /** Interface indices of the host's interface and of the segment's veth end. */
  uplink: number;
  port: number;
  /** The host's own address on the interface. */
  hostMac: number;
  vms: readonly { mac: number; isolated: boolean }[];
}

/** An address as the program reads it: the frame's first byte is the lowest of the number. */
function littleEndian(mac: number): bigint {
  const b = Buffer.alloc(8);
  b.writeUIntBE(mac, 0, 6);
  return b.readBigUInt64LE();
}

/** The bytes after the marker. */
export function noTouchConfig(config: NoTouchConfig): Buffer {
  if (config.vms.length > TABLE_SIZE) throw new AnkaError('network', `one interface carries at most ${TABLE_SIZE} VMs; bridge the others to another`);
  const b = Buffer.alloc(16 + TABLE_SIZE * 8);
  b.writeUInt32LE(config.uplink, 0);
  b.writeUInt32LE(config.port, 4);
  b.writeBigUInt64LE(littleEndian(config.hostMac), 8);
  const entries = config.vms
    .map((v) => ({ key: littleEndian(v.mac), flags: v.isolated ? IS_VM | IS_ISOLATED : IS_VM }))
    .sort((x, y) => (x.key < y.key ? -1 : 1));
  for (let i = 0; i < TABLE_SIZE; i++) {
    const entry = entries[i];
    b.writeBigUInt64LE(entry ? entry.key | (BigInt(entry.flags) << 48n) : 0xffffffffffffn, 16 + i * 8);
  }
  return b;
}
