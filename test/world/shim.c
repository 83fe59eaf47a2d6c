/* A guest's network card without a guest: connects a tap of this network namespace to a unix stream socket with QEMU's
 * framing (big-endian length of 4 bytes).
 *
 *   shim TAP listen|dial SOCKET [loss=PPM] [dup=PPM] [reorder=PPM] [seed=N]
 *   shim TAP listen|dial SOCKET offload
 *
 * `listen` acts as QEMU with `-netdev stream,server=on`: it serves one connection at a time. `dial` connects as soon as
 * a program listens there, and exits with the connection. Frames from the guest cost one send each, as in QEMU.
 * Impairments are parts per million of frames in both directions, drawn from a seeded generator: lost, duplicated, or
 * delayed behind the next frames of that direction.
 * With `offload` the guest's kernel sends and receives large packets (offload.c), so that guest and shim cost little
 * CPU. The socket still carries frames of the tap's MTU; those of one large packet go out in one send.
 * Prints "ready" when it listens or is connected. */
#define _GNU_SOURCE
#include "offload.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER = 4 << 20, FRAME = 69632, READ = 1 << 20, BURST = 256, SNDBUF = 4 << 20, HELD_FOR = 3, HELD_MS = 5, DIAL_US = 20000 };

static int tap;
static uint64_t rng = 88172645463325252ull;
static uint32_t loss, duplicate, reorder;
static int offload;
/* `out`: bytes that the socket did not accept yet. `in`: bytes of a frame that is not complete yet. */
static uint8_t out[BUFFER], in[BUFFER];
static size_t out_from, out_to, in_to;
static int sock = -1, broken;

/* A delayed frame, and the number of frames that still overtake it. */
struct delayed {
  uint8_t frame[4 + FRAME];
  size_t length;
  int passes;
};
static struct delayed up, down;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int chance(uint32_t ppm) {
  if (!ppm) return 0;
  rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
  return rng % 1000000 < ppm;
}

static void flush_out(void) {
  while (out_from < out_to) {
    ssize_t n = send(sock, out + out_from, out_to - out_from, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno != EAGAIN) broken = 1;
      return;
    }
    out_from += n;
  }
  out_from = out_to = 0;
}

/* The four bytes before `frame` belong to the caller's buffer; the length prefix is written there. */
static void to_socket(uint8_t *frame, size_t length) {
  uint32_t prefix = htonl(length);
  memcpy(frame - 4, &prefix, 4);
  ssize_t sent = 0;
  if (out_to == 0) {
    sent = send(sock, frame - 4, 4 + length, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN) broken = 1;
      sent = 0;
    }
  }
  size_t rest = 4 + length - sent;
  if (rest == 0 || broken || out_to + rest > BUFFER) return;
  memcpy(out + out_to, frame - 4 + sent, rest);
  out_to += rest;
}

static void to_tap(uint8_t *frame, size_t length) {
  if (write(tap, frame, length) < 0 && errno != EAGAIN && errno != EINVAL && errno != EIO) die("write to the tap");
}

static void impair(struct delayed *h, void (*pass)(uint8_t *, size_t), uint8_t *frame, size_t length) {
  if (chance(loss)) return;
  if (!h->length && chance(reorder)) {
    memcpy(h->frame + 4, frame, length);
    h->length = length;
    h->passes = HELD_FOR;
    return;
  }
  pass(frame, length);
  if (chance(duplicate)) pass(frame, length);
  if (h->length && --h->passes == 0) {
    pass(h->frame + 4, h->length);
    h->length = 0;
  }
}

static void release_delayed(struct delayed *h, void (*pass)(uint8_t *, size_t)) {
  if (h->length) pass(h->frame + 4, h->length);
  h->length = 0;
}

static void from_tap(void) {
  static uint8_t frame[4 + FRAME];
  for (int i = 0; i < BURST && !broken && out_to == 0; i++) {
    ssize_t n = read(tap, frame + 4, FRAME);
    if (n <= 0) return;
    if (loss || duplicate || reorder) impair(&up, to_socket, frame + 4, n);
    else to_socket(frame + 4, n);
  }
}

/* Reads packets of any size from the guest's kernel and cuts them. */
static void large_from_tap(void) {
  for (int i = 0; i < BURST && !broken && out_to == 0; i++) {
    struct virtio_net_hdr h;
    uint8_t *packet = out + FRAMES + 4;
    struct iovec v[2] = {{&h, sizeof h}, {packet, PACKET}};
    ssize_t n = readv(tap, v, 2) - (ssize_t)sizeof h;
    if (n <= 0) return;
    if (h.gso_type != VIRTIO_NET_HDR_GSO_NONE) out_to = cut(&h, packet, n, out);
    else {
      uint32_t prefix = htonl(n);
      seal(&h, packet, n);
      memcpy(packet - 4, &prefix, 4);
      out_from = FRAMES;
      out_to = FRAMES + 4 + n;
    }
    flush_out();
  }
}

static void from_socket(void) {
  ssize_t n = recv(sock, in + in_to, READ < BUFFER - in_to ? READ : BUFFER - in_to, 0);
  if (n == 0 || (n < 0 && errno != EAGAIN)) broken = 1;
  if (n <= 0) return;
  in_to += n;
  size_t at = 0;
  while (in_to - at >= 4) {
    uint32_t length;
    memcpy(&length, in + at, 4);
    length = ntohl(length);
    if (length > FRAME) {
      fprintf(stderr, "a frame of %u bytes\n", length);
      broken = 1;
      break;
    }
    if (in_to - at < 4 + length) break;
    if (offload) join(tap, in + at + 4, length);
    else if (loss || duplicate || reorder) impair(&down, to_tap, in + at + 4, length);
    else to_tap(in + at + 4, length);
    at += 4 + length;
  }
  if (offload) join_end(tap);
  memmove(in, in + at, in_to - at);
  in_to -= at;
}

/* Relays until the connection is closed. */
static void relay(void) {
  int size = SNDBUF;
  fcntl(sock, F_SETFL, O_NONBLOCK);
  setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  out_from = out_to = in_to = 0;
  up.length = down.length = 0;
  broken = 0;
  while (!broken) {
    struct pollfd p[2] = {{tap, out_to == 0 ? POLLIN : 0, 0}, {sock, POLLIN | (out_to > 0 ? POLLOUT : 0), 0}};
    int ready = poll(p, 2, up.length || down.length ? HELD_MS : -1);
    if (ready < 0 && errno != EINTR) die("poll");
    if (ready == 0) release_delayed(&up, to_socket), release_delayed(&down, to_tap);
    if (ready <= 0) continue;
    if (p[1].revents & POLLOUT) flush_out();
    if (p[0].revents & POLLIN) offload ? large_from_tap() : from_tap();
    if (p[1].revents & (POLLIN | POLLHUP | POLLERR)) from_socket();
  }
  close(sock);
}

static struct sockaddr_un address(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  strncpy(a.sun_path, path, sizeof a.sun_path - 1);
  return a;
}

static int listen_at(const char *path) {
  struct sockaddr_un a = address(path);
  unlink(path);
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(s, (void *)&a, sizeof a) < 0 || chmod(path, 0666) < 0 || listen(s, 1) < 0) die(path);
  return s;
}

/* Drops the guest's frames while no peer is connected, as an unplugged cable does. */
static int accept_draining(int listener) {
  static uint8_t lost[FRAME];
  for (;;) {
    struct pollfd p[2] = {{listener, POLLIN, 0}, {tap, POLLIN, 0}};
    if (poll(p, 2, -1) < 0 && errno != EINTR) die("poll");
    if (p[1].revents & POLLIN)
      while (read(tap, lost, FRAME) > 0);
    if (p[0].revents & POLLIN) {
      int c = accept(listener, NULL, NULL);
      if (c >= 0) return c;
    }
  }
}

/* Tries until the socket exists and its program listens. */
static int dial(const char *path) {
  struct sockaddr_un a = address(path);
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  while (connect(s, (void *)&a, sizeof a) < 0) {
    if (errno != ENOENT && errno != ECONNREFUSED && errno != EINTR) die(path);
    usleep(DIAL_US);
  }
  return s;
}

static void ready(void) {
  puts("ready");
  fflush(stdout);
}

int main(int count, char **args) {
  offload = count == 5 && !strcmp(args[4], "offload");
  if (count < 4 || (strcmp(args[2], "listen") && strcmp(args[2], "dial"))) {
    fprintf(stderr, "usage: shim TAP listen|dial SOCKET [loss=PPM] [dup=PPM] [reorder=PPM] [seed=N] | offload\n");
    return 2;
  }
  for (int i = 4; i < count; i++) {
    if (!strncmp(args[i], "loss=", 5)) loss = atoi(args[i] + 5);
    else if (!strncmp(args[i], "dup=", 4)) duplicate = atoi(args[i] + 4);
    else if (!strncmp(args[i], "reorder=", 8)) reorder = atoi(args[i] + 8);
    else if (!strncmp(args[i], "seed=", 5)) rng ^= strtoull(args[i] + 5, 0, 10) * 0x9e3779b97f4a7c15ull;
  }
  if ((tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK)) < 0) die("/dev/net/tun");
  struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | (offload ? IFF_VNET_HDR : 0)};
  strncpy(r.ifr_name, args[1], IFNAMSIZ - 1);
  if (ioctl(tap, TUNSETIFF, &r) < 0) die("TUNSETIFF");
  if (offload && ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0) die("TUNSETOFFLOAD");
  if (!strcmp(args[2], "dial")) {
    sock = dial(args[3]);
    ready();
    relay();
    return 0;
  }
  int listener = listen_at(args[3]);
  ready();
  for (;;) {
    sock = accept_draining(listener);
    relay();
  }
}
