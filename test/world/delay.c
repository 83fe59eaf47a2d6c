/* A cable with latency: connects a tap of this network namespace to one of another and delivers each frame MILLISECONDS
 * later. Replaces the queue discipline netem, which not every kernel has.
 *
 *   delay TAP OTHER-NAMESPACE TAP MILLISECONDS
 *
 * Creates both taps, then prints "ready". Each direction has a ring of frames; a frame that finds its ring full is
 * dropped. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { FRAMES = 1 << 16, FRAME = 1514 };

struct direction {
  int from, to;
  unsigned head, tail;
  struct {
    uint64_t due;
    uint16_t length;
    uint8_t bytes[FRAME];
  } *ring;
};

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int open_tap(const char *name) {
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  if (fd < 0) die("/dev/net/tun");
  snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
  if (ioctl(fd, TUNSETIFF, &request) < 0) die(name);
  return fd;
}

static uint64_t now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void take(struct direction *w, uint64_t delay) {
  uint64_t due = now_us() + delay;
  uint8_t spare[FRAME];
  for (int i = 0; i < 256; i++) {
    int full = w->head - w->tail == FRAMES;
    uint8_t *at = full ? spare : w->ring[w->head % FRAMES].bytes;
    ssize_t n = read(w->from, at, FRAME);
    if (n <= 0) return;
    if (full) continue;
    w->ring[w->head % FRAMES].due = due;
    w->ring[w->head++ % FRAMES].length = n;
  }
}

static void give(struct direction *w) {
  uint64_t now = now_us();
  for (; w->tail != w->head && w->ring[w->tail % FRAMES].due <= now; w->tail++)
    if (write(w->to, w->ring[w->tail % FRAMES].bytes, w->ring[w->tail % FRAMES].length) < 0) continue;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  struct direction directions[2];
  char path[128];
  uint64_t delay = strtoull(argv[4], NULL, 10) * 1000;
  directions[0].from = directions[1].to = open_tap(argv[1]);
  snprintf(path, sizeof path, "/run/netns/%s", argv[2]);
  int other = open(path, O_RDONLY);
  if (other < 0 || setns(other, CLONE_NEWNET) < 0) die(path);
  directions[1].from = directions[0].to = open_tap(argv[3]);
  for (int i = 0; i < 2; i++) {
    directions[i].head = directions[i].tail = 0;
    if (!(directions[i].ring = calloc(FRAMES, sizeof *directions[i].ring))) die("memory");
  }
  puts("ready");
  fflush(stdout);
  struct pollfd p[2] = {{.fd = directions[0].from, .events = POLLIN}, {.fd = directions[1].from, .events = POLLIN}};
  for (;;) {
    int waiting = directions[0].head != directions[0].tail || directions[1].head != directions[1].tail;
    poll(p, 2, waiting ? 1 : -1);
    for (int i = 0; i < 2; i++) {
      take(&directions[i], delay);
      give(&directions[i]);
    }
  }
}
