/* A guest's card without a guest: joins a tap of this network namespace to a unix stream socket with QEMU's framing (4 bytes of length, big-endian).
 *
 *   shim TAP SOCKET
 *
 * Listens as QEMU does with `-netdev stream,server=on`: one connection at a time, and the next one when that ends. Many frames go in one write, so that
 * the shim is not what a benchmark measures. Says "ready" when it listens. */
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
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER = 4 << 20, FRAME = 69632, BURST = 256, SNDBUF = 4 << 20 };

static uint8_t up[BUFFER], down[BUFFER];

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int open_tap(const char *name) {
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  if (fd < 0) die("/dev/net/tun");
  struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  strncpy(r.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(fd, TUNSETIFF, &r) < 0) die("TUNSETIFF");
  return fd;
}

static int listen_on(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  strncpy(a.sun_path, path, sizeof a.sun_path - 1);
  unlink(path);
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(s, (void *)&a, sizeof a) < 0 || chmod(path, 0666) < 0 || listen(s, 1) < 0) die(path);
  return s;
}

/* What the guest sends while nobody is connected is lost, as on a pulled cable. */
static int accept_draining(int listener, int tap) {
  for (;;) {
    struct pollfd p[2] = {{listener, POLLIN, 0}, {tap, POLLIN, 0}};
    if (poll(p, 2, -1) < 0 && errno != EINTR) die("poll");
    if (p[1].revents & POLLIN)
      while (read(tap, down, FRAME) > 0);
    if (p[0].revents & POLLIN) {
      int c = accept(listener, NULL, NULL), size = SNDBUF;
      if (c < 0) continue;
      fcntl(c, F_SETFL, O_NONBLOCK);
      setsockopt(c, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
      return c;
    }
  }
}

/* Until the connection ends. */
static void relay(int tap, int s) {
  size_t sent = 0, filled = 0, got = 0;
  for (;;) {
    struct pollfd p[2] = {{tap, filled + FRAME + 4 <= BUFFER ? POLLIN : 0, 0}, {s, POLLIN | (filled > sent ? POLLOUT : 0), 0}};
    if (poll(p, 2, -1) < 0) {
      if (errno == EINTR) continue;
      die("poll");
    }
    if (p[0].revents & POLLIN)
      for (int i = 0; i < BURST && filled + FRAME + 4 <= BUFFER; i++) {
        ssize_t n = read(tap, up + filled + 4, FRAME);
        if (n <= 0) break;
        uint32_t length = htonl(n);
        memcpy(up + filled, &length, 4);
        filled += n + 4;
      }
    if (filled > sent) {
      ssize_t n = send(s, up + sent, filled - sent, MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return;
      if (n > 0) sent += n;
      if (sent == filled) sent = filled = 0;
      else if (filled + FRAME + 4 > BUFFER && sent > BUFFER / 2) {
        memmove(up, up + sent, filled - sent);
        filled -= sent;
        sent = 0;
      }
    }
    if (p[1].revents & (POLLIN | POLLHUP | POLLERR)) {
      ssize_t n = recv(s, down + got, BUFFER - got, 0);
      if (n == 0 || (n < 0 && errno != EAGAIN)) return;
      if (n > 0) got += n;
      size_t at = 0;
      while (got - at >= 4) {
        uint32_t length;
        memcpy(&length, down + at, 4);
        length = ntohl(length);
        if (length > FRAME) return;
        if (got - at < 4 + length) break;
        if (write(tap, down + at + 4, length) < 0 && errno != EAGAIN && errno != EINVAL && errno != EIO) die("write to the tap");
        at += 4 + length;
      }
      memmove(down, down + at, got - at);
      got -= at;
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: shim TAP SOCKET\n");
    return 2;
  }
  int tap = open_tap(argv[1]), listener = listen_on(argv[2]);
  puts("ready");
  fflush(stdout);
  for (;;) {
    int s = accept_draining(listener, tap);
    relay(tap, s);
    close(s);
  }
}
