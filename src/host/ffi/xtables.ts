/** The tables of iptables-legacy, as the kernel has them. */
import { closeSync } from 'node:fs';
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno } from './koffi.ts';

const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC = 0x80002;
const SOL_IP = 0;
const IPT_SO_GET_INFO = 64;
const IPT_SO_GET_ENTRIES = 65;
/** struct ipt_getinfo: offset of the entries' length, and its own. */
const INFO_SIZE = 80;
const INFO = 84;
/** struct ipt_get_entries: offsets of their length, and of the entries. */
const ENTRIES_SIZE = 32;
const ENTRIES = 40;
const EAGAIN = 11;
/** A table that is replaced between the two calls is read again. */
const MAX_ATTEMPTS = 5;

interface XtablesCalls {
  socket(domain: number, type: number, protocol: number): number;
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, length: Uint32Array): number;
}

const calls = declareOnce(
  ({ func }): XtablesCalls => ({
    socket: func('int socket(int, int, int)'),
    getsockopt: func('int getsockopt(int, int, int, _Inout_ uint8_t *, _Inout_ uint32_t *)'),
  }),
);

/** Entries of an IPv4 table (struct ipt_entry). Asking for a table loads its module. Throws the kernel's errors. */
export function readXtablesEntries(table: string): Buffer {
  const fd = calls().socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0);
  if (fd < 0) throw new AnkaError('network', `a socket cannot be opened (errno ${errno()})`);
  const ask = (option: number, value: Buffer): number => {
    value.write(table, 'latin1');
    return calls().getsockopt(fd, SOL_IP, option, value, Uint32Array.of(value.length)) === 0 ? 0 : errno();
  };
  try {
    for (let attempt = 1; ; attempt++) {
      const info = Buffer.alloc(INFO);
      const entries = ask(IPT_SO_GET_INFO, info) === 0 ? Buffer.alloc(ENTRIES + info.readUInt32LE(INFO_SIZE)) : null;
      entries?.writeUInt32LE(entries.length - ENTRIES, ENTRIES_SIZE);
      const failure = entries === null ? errno() : ask(IPT_SO_GET_ENTRIES, entries);
      if (entries !== null && failure === 0) return entries.subarray(ENTRIES);
      if (failure !== EAGAIN || attempt === MAX_ATTEMPTS)
        throw new AnkaError('network', `the table ${table} of iptables-legacy cannot be read (errno ${failure})`);
    }
  } finally {
    closeSync(fd);
  }
}
