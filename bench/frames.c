/* Frame source and sink with QEMU's framing on unix sockets that they listen on. They stand in for guests, so that the
 * benchmark measures the switch alone.
 *
 *   frames SOURCE-SOCKET MAC IP SINK-SOCKET MAC IP SIZE SECONDS
 *
 * Source and sink announce their addresses by gratuitous ARP. The source then sends UDP frames of SIZE bytes, many per
 * write, for SECONDS. Prints {"frames": per second at the sink, "gbps": of those frames}. With `-` as SINK-SOCKET there
 * is no sink: the frames go to the station with that MAC and IP, and the figures are those of the source. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BURST = 256 << 10, READ = 1 << 20, SNDBUF = 4 << 20 };

static void die(const char *what) {
  perror(what);
  exit(1);
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static int listen_at(const char *path) {
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  strncpy(a.sun_path, path, sizeof a.sun_path - 1);
  unlink(path);
  int s = socket(AF_UNIX, SOCK_STREAM, 0);
  if (bind(s, (void *)&a, sizeof a) < 0 || chmod(path, 0666) < 0 || listen(s, 1) < 0) die(path);
  return s;
}

static int connected(int listener) {
  int size = SNDBUF, s = accept(listener, NULL, NULL);
  if (s < 0) die("accept");
  setsockopt(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  return s;
}

static void mac_of(const char *text, uint8_t *mac) {
  unsigned v[6];
  if (sscanf(text, "%x:%x:%x:%x:%x:%x", v, v + 1, v + 2, v + 3, v + 4, v + 5) != 6) die(text);
  for (int i = 0; i < 6; i++) mac[i] = v[i];
}

/* Sends a gratuitous ARP for the card's address. */
static void claim(int s, const uint8_t *mac, const char *ip) {
  uint8_t f[4 + 42] = {0, 0, 0, 42, 255, 255, 255, 255, 255, 255, [16] = 8, 6, 0, 1, 8, 0, 6, 4, 0, 1};
  memcpy(f + 10, mac, 6), memcpy(f + 26, mac, 6);
  inet_pton(AF_INET, ip, f + 32), inet_pton(AF_INET, ip, f + 42);
  if (send(s, f, sizeof f, MSG_NOSIGNAL) != sizeof f) die("claim");
}

/* Sends for `length` seconds. Returns the number of frames. */
static uint64_t source(int s, const uint8_t *from, const char *from_ip, const uint8_t *to, const char *to_ip, int size, double length) {
  uint64_t sent = 0;
  static uint8_t burst[BURST];
  int frames = BURST / (4 + size), whole = frames * (4 + size);
  for (int i = 0; i < frames; i++) {
    uint8_t *f = burst + i * (4 + size), *ip = f + 18;
    uint32_t prefix = htonl(size), sum = 0;
    uint16_t total = htons(size - 14), udp = htons(size - 34);
    memcpy(f, &prefix, 4), memcpy(f + 4, to, 6), memcpy(f + 10, from, 6);
    f[16] = 8, ip[0] = 0x45, ip[8] = 64, ip[9] = 17;
    memcpy(ip + 2, &total, 2);
    inet_pton(AF_INET, from_ip, ip + 12), inet_pton(AF_INET, to_ip, ip + 16);
    for (int k = 0; k < 20; k += 2) sum += ip[k] << 8 | ip[k + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    ip[10] = ~sum >> 8, ip[11] = ~sum;
    ip[20] = 4, ip[22] = 4, memcpy(ip + 24, &udp, 2);
  }
  for (double end = seconds() + length; seconds() < end; sent += frames)
    for (int at = 0; at < whole;) {
      ssize_t n = send(s, burst + at, whole - at, MSG_NOSIGNAL);
      if (n <= 0) exit(0);
      at += n;
    }
  return sent;
}

static void print(double frames, int size) {
  printf("{\"frames\":%.0f,\"gbps\":%.3f}\n", frames, frames * size * 8 / 1e9);
}

/* Counts bytes for `length` seconds, after a warm-up of 0.5 s. */
static void sink(int s, int size, double length) {
  static uint8_t b[READ];
  double began = seconds() + 0.5, end = began + length;
  uint64_t bytes = 0;
  for (double now; (now = seconds()) < end;) {
    ssize_t n = recv(s, b, sizeof b, 0);
    if (n <= 0) break;
    if (now >= began) bytes += n;
  }
  print(bytes / (4.0 + size) / length, size);
}

int main(int n, char **a) {
  if (n != 9) {
    fprintf(stderr, "usage: frames SOURCE-SOCKET MAC IP SINK-SOCKET MAC IP SIZE SECONDS\n");
    return 2;
  }
  uint8_t from[6], to[6];
  mac_of(a[2], from), mac_of(a[5], to);
  int size = atoi(a[7]), out = listen_at(a[1]);
  double length = atof(a[8]);
  if (!strcmp(a[4], "-")) {
    int s = connected(out);
    claim(s, from, a[3]);
    usleep(200000);
    print(source(s, from, a[3], to, a[6], size, length) / length, size);
    return 0;
  }
  int in = listen_at(a[4]), s = connected(out), r = connected(in);
  claim(s, from, a[3]), claim(r, to, a[6]);
  usleep(200000);
  pid_t child = fork();
  if (child == 0) {
    close(r);
    source(s, from, a[3], to, a[6], size, length + 1.5);
    return 0;
  }
  close(s);
  sink(r, size, length);
  close(r);
  kill(child, 15);
  waitpid(child, NULL, 0);
  return 0;
}
