// The loops that touch every byte of every frame, in AssemblyScript, compiled to WebAssembly SIMD by
// scripts/kernels.mjs.
//
// All offsets are bytes in the packet memory (src/net/memory/packet-memory.ts), which is imported. Sums are
// one's-complement sums of little-endian 16-bit words, folded to 16 bits; stored as little-endian words they are right
// on the wire (RFC 1071, 2.B: byte order independence). Nothing here trusts a length that a frame claims beyond the
// length prefix, and the prefix is checked against `end`.

/** Bytes of a frame before the TCP payload: length prefix 4, Ethernet 14, IPv4 20, TCP 20. */
const HEADERS: i32 = 58;
/** Bytes of a descriptor, and where its fields are: see src/net/memory/kernels.ts. */
const DESCRIPTOR: i32 = 48;

// @ts-ignore: decorator
@inline function fold(v: u64): u32 {
  v = (v & 0xffffffff) + (v >> 32);
  v = (v & 0xffff) + ((v >> 16) & 0xffff) + (v >> 32);
  v = (v & 0xffff) + (v >> 16);
  return <u32>((v & 0xffff) + (v >> 16));
}

// @ts-ignore: decorator
@inline function lanes(a: v128, b: v128): u64 {
  // each lane grew by at most 2 × 65535 per 16 bytes: no overflow below 256 KiB, and a frame has at most 64 KiB
  const s = i32x4.add(a, b);
  return <u64><u32>i32x4.extract_lane(s, 0) + <u64><u32>i32x4.extract_lane(s, 1) + <u64><u32>i32x4.extract_lane(s, 2) + <u64><u32>i32x4.extract_lane(s, 3);
}

// @ts-ignore: decorator
@inline function swap16(x: u32): u32 {
  return ((x & 0xff) << 8) | ((x >> 8) & 0xff);
}

/** Sum of n bytes at p, 0 <= n <= 65536. */
export function checksum(p: usize, n: i32): u32 {
  let a = i32x4.splat(0), b = i32x4.splat(0);
  const e = p + (n & ~63);
  while (p < e) {
    a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(v128.load(p)));
    b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(v128.load(p, 16)));
    a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(v128.load(p, 32)));
    b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(v128.load(p, 48)));
    p += 64;
  }
  let s = lanes(a, b);
  n &= 63;
  while (n >= 4) { s += load<u32>(p); p += 4; n -= 4; }
  if (n & 2) { s += load<u16>(p); p += 2; }
  if (n & 1) s += load<u8>(p);
  return fold(s);
}

/** Copies n bytes from p to d, and sums them in the same pass. The areas may overlap when d <= p - 32 or d >= p + n. */
export function copyChecksum(d: usize, p: usize, n: i32): u32 {
  let a = i32x4.splat(0), b = i32x4.splat(0);
  const e = p + (n & ~31);
  while (p < e) {
    const x = v128.load(p), y = v128.load(p, 16);
    v128.store(d, x);
    v128.store(d, y, 16);
    a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(x));
    b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(y));
    p += 32;
    d += 32;
  }
  let s = lanes(a, b);
  n &= 31;
  while (n >= 4) { const x = load<u32>(p); store<u32>(d, x); s += x; p += 4; d += 4; n -= 4; }
  if (n & 2) { const x = load<u16>(p); store<u16>(d, x); s += x; p += 2; d += 2; }
  if (n & 1) { const x = load<u8>(p); store<u8>(d, x); s += x; }
  return fold(s);
}

/**
 * Cuts n payload bytes at src into length-prefixed Ethernet/IPv4/TCP frames at dst. `template` is 58 bytes: prefix,
 * Ethernet, IPv4 without options, TCP without options, with addresses, ports, acknowledgement, flags and window filled
 * in and all checksums 0. The last frame gets PSH. Returns the bytes written.
 */
export function segment(dst: usize, src: usize, n: i32, mss: i32, template: usize, seq: u32, ipId: u32): i32 {
  let d = dst;
  let ip: u64 = 0;
  for (let i = 18; i < 38; i += 2) ip += load<u16>(template + i);
  let tcp: u64 = 0x0600; // protocol 6 of the pseudo header, as a little-endian word
  for (let i = 30; i < 58; i += 2) tcp += load<u16>(template + i);
  while (n > 0) {
    const m = n < mss ? n : mss;
    v128.store(d, v128.load(template));
    v128.store(d, v128.load(template, 16), 16);
    v128.store(d, v128.load(template, 32), 32);
    store<u64>(d, load<u64>(template, 48), 48);
    store<u16>(d, load<u16>(template, 56), 56);
    if (m == n) {
      const flags = load<u8>(d, 51);
      if (!(flags & 8)) { store<u8>(d, flags | 8, 51); tcp += 0x0800; }
    }
    store<u32>(d, bswap<u32>(<u32>(m + HEADERS - 4)));
    const total = swap16(<u32>(m + 40));
    store<u16>(d, <u16>total, 20);
    const id = swap16(ipId & 0xffff);
    store<u16>(d, <u16>id, 22);
    ipId++;
    store<u16>(d, <u16>~fold(ip + total + id), 28);
    const sq = bswap<u32>(seq);
    store<u32>(d, sq, 42);
    const s = <u64>copyChecksum(d + HEADERS, src, m) + tcp + (sq & 0xffff) + (sq >> 16) + swap16(<u32>(m + 20));
    store<u16>(d, <u16>~fold(s), 54);
    d += m + HEADERS;
    src += m;
    n -= m;
    seq += m;
  }
  return <i32>(d - dst);
}

/**
 * Walks the framed IPv4/TCP frames in [p, end), checks lengths and both checksums, and joins in-order payload of one
 * flow in place (moved down), so that a run of segments becomes one. Of a joined run only the first one's options can
 * be read, so an ACK without payload that has some is not joined. Writes a descriptor per joined run; returns how many
 * (at most max). Where it stopped is stored at descriptors - 4.
 */
export function coalesce(p: usize, end: usize, descriptors: usize, max: i32): i32 {
  let d = descriptors, count = 0;
  let open: usize = 0; // descriptor that may grow
  let from: u32 = 0, to: u32 = 0, ports: u32 = 0, next: u32 = 0, lastAck: u32 = 0;
  while (p + 4 <= end && count < max) {
    const length = bswap<u32>(load<u32>(p)), frame = p + 4;
    if (length > <u32>(end - frame)) break;
    p = frame + length;
    const ip = frame + 14;
    let problem: u32 = 1, tcp: usize = 0, data: usize = 0;
    let size: i32 = 0, header: i32 = 0;
    if (length >= 54) {
      const ihl = <i32>(load<u8>(ip) & 15) << 2;
      const total = <i32>swap16(load<u16>(ip, 2));
      tcp = ip + ihl;
      if (ihl >= 20 && total <= <i32>length - 14 && total >= ihl + 20) {
        header = <i32>(load<u8>(tcp, 12) >> 4) << 2;
        data = tcp + header;
        size = total - ihl - header;
        if (header >= 20 && size >= 0) problem = checksum(ip, ihl) == 0xffff ? 0 : 2;
      }
    }
    if (problem) {
      store<u32>(d, problem);
      store<u32>(d, <u32>ip, 4);
      open = 0;
      d += DESCRIPTOR;
      count++;
      continue;
    }
    const flags = <u32>load<u8>(tcp, 13), source = load<u32>(ip, 12), target = load<u32>(ip, 16), pair = load<u32>(tcp);
    const seq = bswap<u32>(load<u32>(tcp, 4)), ack = bswap<u32>(load<u32>(tcp, 8)), window = swap16(load<u16>(tcp, 14));
    let sum: u64 = <u64>checksum(tcp, header) + (source & 0xffff) + (source >> 16) + (target & 0xffff) + (target >> 16) + 0x0600 + swap16(<u32>(header + size));
    if (open && source == from && target == to && pair == ports && seq == next && (flags & 0xf7) == 0x10 && (size > 0 || (ack != lastAck && header == 20))) {
      const have = load<u32>(open, 16);
      if (size > 0) {
        if (have) sum += copyChecksum(load<u32>(open, 12) + have, data, size);
        else sum += checksum(data, size);
      }
      if (fold(sum) == 0xffff) {
        if (size > 0) {
          if (!have) store<u32>(open, <u32>data, 12);
          store<u32>(open, have + size, 16);
          store<u32>(open, load<u32>(open, 32) + 1, 32);
          next = seq + size;
        }
        store<u32>(open, ack, 24);
        store<u32>(open, window | (flags << 16), 28);
        lastAck = ack;
        continue;
      }
      problem = 2;
    } else {
      sum += checksum(data, size);
      problem = fold(sum) == 0xffff ? 0 : 2;
    }
    store<u32>(d, problem);
    store<u32>(d, <u32>ip, 4);
    store<u32>(d, <u32>tcp, 8);
    store<u32>(d, <u32>data, 12);
    store<u32>(d, size, 16);
    store<u32>(d, seq, 20);
    store<u32>(d, ack, 24);
    store<u32>(d, window | (flags << 16), 28);
    store<u32>(d, 1, 32);
    store<u32>(d, bswap<u32>(source), 36);
    store<u32>(d, bswap<u32>(target), 40);
    store<u32>(d, (swap16(pair) << 16) | swap16(pair >> 16), 44);
    if (!problem && (flags & 0xf7) == 0x10) {
      open = d;
      from = source;
      to = target;
      ports = pair;
      next = seq + size;
      lastAck = ack;
    } else open = 0;
    d += DESCRIPTOR;
    count++;
  }
  store<u32>(descriptors - 4, <u32>p);
  return count;
}
