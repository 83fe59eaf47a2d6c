/**
 * DHCPv4 messages (RFC 2131, options RFC 2132).
 *
 * 236 fixed bytes, the magic cookie, then options (code, length, value). Limits: option overload (52) is read, never
 * written. Of an option that is split over several instances (RFC 3396) only the last instance is read. Unknown options
 * are skipped.
 */

export const DHCP_CLIENT_PORT = 68;

/** Message types, option 53. */
export const DhcpType = { discover: 1, offer: 2, request: 3, decline: 4, ack: 5, nak: 6, release: 7, inform: 8 } as const;

const OFF = {
  op: 0,
  htype: 1,
  hlen: 2,
  hops: 3,
  xid: 4,
  secs: 8,
  flags: 10,
  ciaddr: 12,
  yiaddr: 16,
  siaddr: 20,
  giaddr: 24,
  chaddr: 28,
  sname: 44,
  file: 108,
  cookie: 236,
  options: 240,
} as const;
const COOKIE = 0x63825363;
const OPT = {
  pad: 0,
  mask: 1,
  router: 3,
  dns: 6,
  hostname: 12,
  domain: 15,
  mtu: 26,
  broadcast: 28,
  requestedIp: 50,
  lease: 51,
  overload: 52,
  type: 53,
  server: 54,
  parameters: 55,
  renewal: 58,
  rebinding: 59,
  clientId: 61,
  search: 119,
  end: 255,
} as const;
/** Smallest message that is sent: BOOTP's 300 bytes, which old clients require. */
const MIN_SIZE = 300;
/** Largest: what every client accepts in an IP datagram of 576 bytes (RFC 2131, 2). */
const MAX_SIZE = 548;

/** The fields of a client's message that a server uses. Addresses are numbers in host order; 0 = absent. */
export interface DhcpRequest {
  type: number;
  xid: number;
  flags: number;
  ciaddr: number;
  giaddr: number;
  /** Client hardware address. */
  mac: number;
  requestedIp: number;
  serverId: number;
  /** Option 61 as sent, echoed by RFC 6842; null when absent. */
  clientId: Uint8Array | null;
  /** Options that the client requests, option 55; null when absent. */
  parameters: Uint8Array | null;
}

/** A server's message. */
export interface DhcpReply {
  type: number;
  xid: number;
  flags: number;
  ciaddr: number;
  yiaddr: number;
  giaddr: number;
  mac: number;
  serverId: number;
  /** Seconds; absent in a NAK and in the answer to INFORM. */
  leaseSeconds?: number;
  mask?: number;
  router?: number;
  dns?: number;
  broadcast?: number;
  mtu?: number;
  domain?: string;
  hostname?: string;
  /** Domains to search (RFC 3397), as many as fit; sent to a client that requests them. */
  search?: readonly string[];
  clientId: Uint8Array | null;
  /** The client's; options are in this order, as far as they are in it (RFC 2132, 9.8). */
  parameters: Uint8Array | null;
}

const u16 = (b: Uint8Array, o: number): number => (b[o] << 8) | b[o + 1];
const u32 = (b: Uint8Array, o: number): number => ((b[o] << 24) | (b[o + 1] << 16) | (b[o + 2] << 8) | b[o + 3]) >>> 0;
const mac48 = (b: Uint8Array, o: number): number => u16(b, o) * 2 ** 32 + u32(b, o + 2);

function put32(b: Uint8Array, o: number, v: number): void {
  b[o] = v >>> 24;
  b[o + 1] = v >>> 16;
  b[o + 2] = v >>> 8;
  b[o + 3] = v;
}

/** The request, or why the datagram is none. Never throws. */
export function parseDhcpRequest(b: Uint8Array): DhcpRequest | 'short' | 'not-a-request' | 'not-ethernet' | 'no-cookie' | 'no-type' | 'bad-option' {
  if (b.length < OFF.options) return 'short';
  if (b[OFF.op] !== 1) return 'not-a-request';
  if (b[OFF.htype] !== 1 || b[OFF.hlen] !== 6) return 'not-ethernet';
  if (u32(b, OFF.cookie) !== COOKIE) return 'no-cookie';
  const r: DhcpRequest = {
    type: 0,
    xid: u32(b, OFF.xid),
    flags: u16(b, OFF.flags),
    ciaddr: u32(b, OFF.ciaddr),
    giaddr: u32(b, OFF.giaddr),
    mac: mac48(b, OFF.chaddr),
    requestedIp: 0,
    serverId: 0,
    clientId: null,
    parameters: null,
  };
  const overload = { value: 0 };
  if (!readOptions(b, OFF.options, b.length, r, overload)) return 'bad-option';
  if (overload.value & 1 && !readOptions(b, OFF.file, OFF.cookie, r, null)) return 'bad-option';
  if (overload.value & 2 && !readOptions(b, OFF.sname, OFF.file, r, null)) return 'bad-option';
  return r.type === 0 ? 'no-type' : r;
}

function readOptions(b: Uint8Array, start: number, end: number, r: DhcpRequest, overload: { value: number } | null): boolean {
  for (let o = start; o < end; ) {
    const code = b[o];
    if (code === OPT.end) return true;
    if (code === OPT.pad) {
      o++;
      continue;
    }
    if (o + 1 >= end) return false;
    const n = b[o + 1];
    const v = o + 2;
    if (v + n > end) return false;
    if (code === OPT.type && n === 1) r.type = b[v];
    else if (code === OPT.requestedIp && n === 4) r.requestedIp = u32(b, v);
    else if (code === OPT.server && n === 4) r.serverId = u32(b, v);
    else if (code === OPT.clientId && n >= 1) r.clientId = new Uint8Array(b.subarray(v, v + n));
    else if (code === OPT.parameters) r.parameters = new Uint8Array(b.subarray(v, v + n));
    else if (code === OPT.overload && n === 1 && overload) overload.value = b[v];
    o = v + n;
  }
  return true; // a missing end option is accepted, as all servers do
}

/** A server's message, 300 to 548 bytes. */
export function emitDhcpReply(r: DhcpReply): Uint8Array {
  const b = new Uint8Array(MAX_SIZE);
  b[OFF.op] = 2;
  b[OFF.htype] = 1;
  b[OFF.hlen] = 6;
  put32(b, OFF.xid, r.xid);
  b[OFF.flags] = r.flags >>> 8;
  b[OFF.flags + 1] = r.flags;
  put32(b, OFF.ciaddr, r.ciaddr);
  put32(b, OFF.yiaddr, r.yiaddr);
  put32(b, OFF.giaddr, r.giaddr);
  const high = Math.floor(r.mac / 2 ** 32);
  b[OFF.chaddr] = high >>> 8;
  b[OFF.chaddr + 1] = high;
  put32(b, OFF.chaddr + 2, r.mac % 2 ** 32);
  put32(b, OFF.cookie, COOKIE);
  let o: number = OFF.options;
  const put = (code: number, bytes: readonly number[]): void => {
    b.set([code, bytes.length, ...bytes], o);
    o += 2 + bytes.length;
  };
  const options = optionsOf(r);
  dropOptional(options, MAX_SIZE - OFF.options - 1);
  for (const code of orderOf(options, r.parameters)) put(code, options.get(code) as number[]);
  if (r.parameters?.includes(OPT.search)) {
    const search = searchList(r.search ?? [], Math.min(255, MAX_SIZE - o - 3));
    if (search.length > 0) put(OPT.search, search);
  }
  b[o++] = OPT.end;
  return b.subarray(0, Math.max(o, MIN_SIZE));
}

/** The options but the search list. */
function optionsOf(r: DhcpReply): Map<number, number[]> {
  const options = new Map<number, number[]>();
  const number32 = (code: number, v: number | undefined): void => {
    if (v !== undefined) options.set(code, [v >>> 24, (v >>> 16) & 255, (v >>> 8) & 255, v & 255]);
  };
  const text = (code: number, v: string | undefined): void => {
    if (v) options.set(code, [...Buffer.from(v.slice(0, 63), 'latin1')]);
  };
  options.set(OPT.type, [r.type]);
  number32(OPT.server, r.serverId);
  number32(OPT.lease, r.leaseSeconds);
  if (r.leaseSeconds !== undefined) {
    number32(OPT.renewal, Math.floor(r.leaseSeconds / 2));
    number32(OPT.rebinding, Math.floor((r.leaseSeconds * 7) / 8));
  }
  number32(OPT.mask, r.mask);
  number32(OPT.broadcast, r.broadcast);
  number32(OPT.router, r.router);
  number32(OPT.dns, r.dns);
  text(OPT.domain, r.domain);
  text(OPT.hostname, r.hostname);
  if (r.mtu !== undefined) options.set(OPT.mtu, [r.mtu >>> 8, r.mtu & 255]);
  if (r.clientId) options.set(OPT.clientId, [...r.clientId]);
  return options;
}

/** Removes options that a client can do without, until the rest fits: a client identifier has up to 255 bytes. */
function dropOptional(options: Map<number, number[]>, room: number): void {
  for (const code of [OPT.hostname, OPT.domain, OPT.broadcast]) {
    if ([...options.values()].reduce((sum, value) => sum + 2 + value.length, 0) <= room) return;
    options.delete(code);
  }
}

/** Type and server first, then those requested in that order; the mask before the router (RFC 2132, 3.3, 9.8). */
function orderOf(options: ReadonlyMap<number, unknown>, parameters: Uint8Array | null): Set<number> {
  const requested = [...(parameters ?? [])].flatMap((code) => (code === OPT.router ? [OPT.mask, code] : [code]));
  return new Set([OPT.type, OPT.server, ...requested, ...options.keys()].filter((code) => options.has(code)));
}

/** Domains in wire format (RFC 3397), with pointers to what was written before (RFC 1035, 4.1.4). */
function searchList(domains: readonly string[], room: number): number[] {
  const bytes: number[] = [];
  const known = new Map<string, number>();
  for (const domain of domains) {
    const before = bytes.length;
    const labels = domain.split('.');
    let i = 0;
    for (; i < labels.length && !known.has(labels.slice(i).join('.')); i++) {
      known.set(labels.slice(i).join('.'), bytes.length);
      const label = [...Buffer.from((labels[i] as string).slice(0, 63), 'latin1')];
      bytes.push(label.length, ...label);
    }
    const at = known.get(labels.slice(i).join('.'));
    bytes.push(...(i < labels.length && at !== undefined ? [0xc0 | (at >> 8), at & 255] : [0]));
    if (bytes.length > room) return bytes.slice(0, before);
  }
  return bytes;
}
