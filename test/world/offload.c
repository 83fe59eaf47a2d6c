/* The offloads of a network card for a tap with IFF_VNET_HDR: TSO and LRO, done as the kernel's GSO and GRO do them.
 *
 * From the guest: each segment gets its own sequence number, IP id, lengths and checksums (RFC 9293). Only the first
 * keeps CWR, only the last keeps FIN and PSH.
 * To the guest: frames are joined under the rules of GRO. They belong to one connection, are in order, carry no flags
 * but ACK and PSH, and have the same acknowledgement number and options; all but the last have one size. A PSH ends a
 * packet. Checksums of joined frames are verified here, as the guest's kernel trusts them. Other frames pass
 * unverified. */
#define _GNU_SOURCE
#include "offload.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

enum { ETH = 14, IP = 20, TCP = 6, FIN = 1, PSH = 8, ACK = 16, CWR = 128, MOST_JOINED = 512, MOST_BYTES = 65535 };

/* One's-complement sum of words in memory order, added to `sum`; not folded. `bytes` may be odd only in the last call
 * for a sum. */
static uint64_t add(uint64_t sum, const uint8_t *p, size_t bytes) {
  uint64_t w, carry = 0;
  for (; bytes >= 8; p += 8, bytes -= 8) {
    memcpy(&w, p, 8);
    sum += w;
    carry += sum < w;
  }
  sum = (sum & 0xffffffff) + (sum >> 32) + carry;
  w = 0;
  memcpy(&w, p, bytes);
  return sum + (w & 0xffffffff) + (w >> 32);
}

static uint16_t fold(uint64_t s) {
  s = (s & 0xffffffff) + (s >> 32);
  s = (s & 0xffffffff) + (s >> 32);
  s = (s & 0xffff) + (s >> 16);
  return (s & 0xffff) + (s >> 16);
}

static unsigned get16(const uint8_t *p) {
  return p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p) {
  return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, unsigned v) {
  p[0] = v >> 8, p[1] = v;
}

static void put32(uint8_t *p, uint32_t v) {
  put16(p, v >> 16), put16(p + 2, v);
}

/* Stores a checksum in memory order. */
static void put_sum(uint8_t *p, uint16_t v) {
  memcpy(p, &v, 2);
}

/* Sum of the pseudo header of a TCP segment of `bytes` bytes. */
static uint64_t pseudo(const uint8_t *ip, size_t bytes) {
  uint8_t rest[4] = {0, TCP, bytes >> 8, bytes};
  return add(add(0, ip + 12, 8), rest, 4);
}

static void seal_ip(uint8_t *ip, size_t header) {
  put16(ip + 10, 0);
  put_sum(ip + 10, ~fold(add(0, ip, header)));
}

void seal(const struct virtio_net_hdr *h, uint8_t *packet, size_t length) {
  if (!(h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || h->csum_start + h->csum_offset + 2u > length) return;
  uint16_t sum = ~fold(add(0, packet + h->csum_start, length - h->csum_start));
  put_sum(packet + h->csum_start + h->csum_offset, sum ? sum : 0xffff);
}

size_t cut(const struct virtio_net_hdr *h, const uint8_t *packet, size_t length, uint8_t *out) {
  const uint8_t *ip = packet + ETH;
  size_t ip_header = (ip[0] & 15) * 4, tcp_header = (ip[ip_header + 12] >> 4) * 4, headers = ETH + ip_header + tcp_header;
  size_t size = h->gso_size, left = length - headers;
  const uint8_t *from = packet + headers;
  uint8_t *to = out;
  uint32_t seq = get32(ip + ip_header + 4);
  unsigned id = get16(ip + 4);
  if (headers > length || size == 0 || left + (left / size + 1) * (4 + headers) > FRAMES) return 0;
  for (int first = 1; left > 0; first = 0) {
    size_t n = left < size ? left : size;
    uint8_t *f = to + 4, *i = f + ETH, *t = i + ip_header;
    put32(to, headers + n);
    memcpy(f, packet, headers);
    memcpy(f + headers, from, n);
    put16(i + 2, ip_header + tcp_header + n);
    put16(i + 4, id++);
    seal_ip(i, ip_header);
    put32(t + 4, seq);
    if (!first) t[13] &= ~CWR;
    if (n < left) t[13] &= ~(FIN | PSH);
    put16(t + 16, 0);
    put_sum(t + 16, ~fold(add(pseudo(i, tcp_header + n), t, tcp_header + n)));
    to += 4 + headers + n, from += n, left -= n, seq += n;
  }
  return to - out;
}

/* The packet under construction: its headers, then pointers to the payloads of its frames. */
static struct virtio_net_hdr none, large;
static uint8_t *opened;
static size_t opened_length, headers, segment, last, joined;
static uint32_t next;
static int pushed, trusted;
static uint8_t head[ETH + IP + 60];
static struct iovec parts[2 + MOST_JOINED];
static int count;

static void to_guest(int tap, const struct iovec *v, int n) {
  if (writev(tap, v, n) < 0 && errno != EAGAIN && errno != EINVAL && errno != EIO) {
    perror("write to the tap");
    exit(1);
  }
}

static void write_single(int tap, uint8_t *frame, size_t length) {
  struct iovec v[2] = {{&none, sizeof none}, {frame, length}};
  to_guest(tap, v, 2);
}

void join_end(int tap) {
  if (!opened) return;
  if (count == 1) write_single(tap, opened, opened_length);
  else {
    uint8_t *i = head + ETH, *t = i + IP;
    size_t tcp = headers - ETH - IP + joined;
    memcpy(head, opened, headers);
    put16(i + 2, IP + tcp);
    seal_ip(i, IP);
    if (pushed) t[13] |= PSH;
    put_sum(t + 16, fold(pseudo(i, tcp)));
    large = (struct virtio_net_hdr){VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, headers, segment, ETH + IP, 16};
    parts[0] = (struct iovec){&large, sizeof large};
    parts[1] = (struct iovec){head, headers};
    to_guest(tap, parts, 2 + count);
  }
  opened = NULL;
}

static int checksums_ok(const uint8_t *frame) {
  const uint8_t *i = frame + ETH;
  size_t tcp = get16(i + 2) - IP;
  return fold(add(0, i, IP)) == 0xffff && fold(add(pseudo(i, tcp), i + IP, tcp)) == 0xffff;
}

/* Payload bytes of a frame that GRO may join, else 0. */
static size_t joinable(const uint8_t *f, size_t length) {
  const uint8_t *i = f + ETH, *t = i + IP;
  if (length < ETH + IP + 20 || get16(f + 12) != 0x0800 || i[0] != 0x45 || i[9] != TCP || get16(i + 6) & 0x3fff) return 0;
  size_t total = get16(i + 2), header = (t[12] >> 4) * 4;
  if (total > length - ETH || header < 20 || total <= IP + header || (t[13] & ~PSH) != ACK) return 0;
  return total - IP - header;
}

/* Whether the frame continues the packet under construction. The headers may differ in lengths, id, checksums, sequence
 * number, flags and window only. */
static int continues(const uint8_t *f, size_t payload) {
  const uint8_t *i = f + ETH, *t = i + IP, *oi = opened + ETH, *ot = oi + IP;
  size_t header = (t[12] >> 4) * 4;
  return ETH + IP + header == headers && get32(t + 4) == next && last == segment && payload <= segment && !pushed && count < MOST_JOINED &&
         headers - ETH + joined + payload <= MOST_BYTES && !memcmp(f, opened, ETH) && i[1] == oi[1] && i[8] == oi[8] && !memcmp(i + 12, oi + 12, 8) &&
         !memcmp(t, ot, 4) && !memcmp(t + 8, ot + 8, 4) && !memcmp(t + 20, ot + 20, header - 20);
}

void join(int tap, uint8_t *frame, size_t length) {
  size_t payload = joinable(frame, length);
  uint8_t *t = frame + ETH + IP;
  if (payload == 0) {
    join_end(tap);
    write_single(tap, frame, length);
    return;
  }
  if (opened && continues(frame, payload) && (trusted || (trusted = checksums_ok(opened))) && checksums_ok(frame)) {
    joined += payload;
    count++;
  } else {
    join_end(tap);
    opened = frame, opened_length = length;
    headers = ETH + IP + (t[12] >> 4) * 4;
    segment = joined = payload;
    count = 1;
    trusted = 0;
    pushed = 0;
  }
  parts[1 + count] = (struct iovec){frame + headers, payload};
  last = payload;
  next = get32(t + 4) + payload;
  pushed |= t[13] & PSH;
}
