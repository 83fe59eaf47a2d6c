// shim.c - joins a tap to a stream socket with QEMU's framing (4-byte big-endian length), as QEMU's `-netdev stream` does for a NIC. For tests and benches.
//   cc -O2 -o shim shim.c
//   shim TAP SOCKET [loss=PPM] [dup=PPM] [reorder=PPM] [seed=N]
// Dials SOCKET, and ends when the other side closes. From the guest, one send per frame while nothing waits, as QEMU does. The damage (parts per million of frames, both directions) is drawn from a
// seeded generator: lost, sent twice, or held back behind the next frames of its direction.
#define _GNU_SOURCE
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
#include <sys/un.h>
#include <unistd.h>

#define BUF (4 << 20)
#define FRAME 66000
static uint64_t rng = 88172645463325252ull;
static uint32_t loss, twice, reorder;
static int tap, sock;

static void die(const char *what) { perror(what); exit(1); }
static int chance(uint32_t ppm) {
  if (!ppm) return 0;
  rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17;
  return rng % 1000000 < ppm;
}

// A frame that is held back, per direction, and how many others pass first.
struct held { uint8_t bytes[FRAME]; size_t n; int passes; } up, down;

static uint8_t *out; static size_t out_n, out_o; // towards the socket
static void to_socket(const uint8_t *f, size_t n) {
  if (out_o == out_n) out_o = out_n = 0;
  if (out_n + n + 4 > BUF) return;
  uint32_t l = htonl(n); memcpy(out + out_n, &l, 4); memcpy(out + out_n + 4, f, n); out_n += n + 4;
}
static void to_tap(const uint8_t *f, size_t n) { if (write(tap, f, n) < 0 && errno != EAGAIN && errno != EINVAL && errno != EIO) die("tap"); }

static void pass(struct held *h, void (*send)(const uint8_t *, size_t), const uint8_t *f, size_t n) {
  if (chance(loss)) return;
  if (!h->n && n < FRAME && chance(reorder)) { memcpy(h->bytes, f, n); h->n = n; h->passes = 3; return; }
  send(f, n);
  if (chance(twice)) send(f, n);
  if (h->n && --h->passes == 0) { send(h->bytes, h->n); h->n = 0; }
}

static int flush_socket(void) {
  while (out_o < out_n) {
    ssize_t w = send(sock, out + out_o, out_n - out_o, MSG_NOSIGNAL);
    if (w < 0) { if (errno == EAGAIN) return 0; exit(0); }
    out_o += w;
  }
  return 1;
}

int main(int c, char **v) {
  if (c < 3) { fprintf(stderr, "shim TAP SOCKET [loss=PPM] [dup=PPM] [reorder=PPM] [seed=N]\n"); return 2; }
  for (int i = 3; i < c; i++) {
    if (!strncmp(v[i], "loss=", 5)) loss = atoi(v[i] + 5);
    else if (!strncmp(v[i], "dup=", 4)) twice = atoi(v[i] + 4);
    else if (!strncmp(v[i], "reorder=", 8)) reorder = atoi(v[i] + 8);
    else if (!strncmp(v[i], "seed=", 5)) rng ^= strtoull(v[i] + 5, 0, 10) * 0x9e3779b97f4a7c15ull;
  }
  if ((tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK)) < 0) die("/dev/net/tun");
  struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  strncpy(r.ifr_name, v[1], IFNAMSIZ - 1);
  if (ioctl(tap, TUNSETIFF, &r) < 0) die("TUNSETIFF");
  struct sockaddr_un u = {.sun_family = AF_UNIX};
  strncpy(u.sun_path, v[2], sizeof u.sun_path - 1);
  sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (connect(sock, (void *)&u, sizeof u)) die(v[2]);
  out = malloc(BUF);
  uint8_t *in = malloc(BUF), *frame = malloc(FRAME + 4096); size_t in_n = 0;
  const int damaged = loss || twice || reorder;
  for (;;) {
    struct pollfd p[2] = {{tap, out_o == out_n ? POLLIN : 0, 0}, {sock, POLLIN | (out_o < out_n ? POLLOUT : 0), 0}};
    int held_back = up.n || down.n;
    if (poll(p, 2, held_back ? 5 : -1) < 0) { if (errno == EINTR) continue; die("poll"); }
    if (held_back && !p[0].revents && !p[1].revents) { // nothing came to pass it: let it go
      if (up.n) { to_socket(up.bytes, up.n); up.n = 0; flush_socket(); }
      if (down.n) { to_tap(down.bytes, down.n); down.n = 0; }
    }
    if (p[0].revents & POLLIN)
      for (int i = 0; i < 256; i++) {
        ssize_t n = read(tap, frame + 4, FRAME);
        if (n <= 0) break;
        if (damaged) pass(&up, to_socket, frame + 4, n);
        else { // no copy: the prefix goes before the frame
          uint32_t l = htonl(n); memcpy(frame, &l, 4);
          ssize_t w = send(sock, frame, n + 4, MSG_NOSIGNAL);
          if (w < 0) { if (errno != EAGAIN) return 0; w = 0; }
          if (w < n + 4) { out_o = 0; out_n = n + 4 - w; memcpy(out, frame + w, out_n); }
        }
        if (!flush_socket()) break;
      }
    if (p[1].revents & POLLOUT) flush_socket();
    if (p[1].revents & (POLLIN | POLLHUP)) {
      ssize_t n = recv(sock, in + in_n, (1 << 20) < BUF - in_n ? 1 << 20 : BUF - in_n, 0);
      if (n == 0) return 0;
      if (n < 0) { if (errno == EAGAIN) continue; return 0; }
      in_n += n;
      size_t o = 0;
      while (in_n - o >= 4) {
        uint32_t l; memcpy(&l, in + o, 4); l = ntohl(l);
        if (l > FRAME) { fprintf(stderr, "a frame of %u bytes\n", l); return 1; }
        if (in_n - o < 4 + l) break;
        if (damaged) pass(&down, to_tap, in + o + 4, l); else to_tap(in + o + 4, l);
        o += 4 + l;
      }
      memmove(in, in + o, in_n - o); in_n -= o;
    }
  }
}
