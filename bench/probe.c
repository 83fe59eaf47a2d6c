/* Server and client for round trips and connection rates. In C, so that the probe itself costs little.
 *
 *   probe serve PORT                         echo server; prints "ready"
 *   probe latency HOST PORT SECONDS          round trips of 64 bytes over one connection
 *   probe connects HOST PORT SECONDS WIDTH   connect, one byte each way, reset; WIDTH connections at a time
 *
 * `connects` resets its connections: without TIME_WAIT the local ports do not run out.
 * Prints {"rate": per second, "median": µs, "p99": µs, "failed": count}. The first tenth of the samples is warm-up and
 * does not count in the percentiles. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, MOST_WIDE = 4096, EVENTS = 256 };

static double *samples;
static size_t count, room;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void sample(double s) {
  if (count == room && !(samples = realloc(samples, (room = room ? 2 * room : 1 << 16) * sizeof *samples))) die("memory");
  samples[count++] = s * 1e6;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int report(double took, size_t failed) {
  size_t warm = count / 10, n = count - warm;
  if (n == 0) {
    fprintf(stderr, "no answer\n");
    return 1;
  }
  qsort(samples + warm, n, sizeof *samples, ascending);
  printf("{\"rate\":%.1f,\"median\":%.1f,\"p99\":%.1f,\"failed\":%zu}\n", count / took, samples[warm + n / 2], samples[warm + n * 99 / 100], failed);
  return 0;
}

static struct sockaddr_in address(const char *host, const char *port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
  if (inet_pton(AF_INET, host, &a.sin_addr) != 1) die(host);
  return a;
}

static void no_delay(int s) {
  int on = 1;
  setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void serve(const char *port) {
  struct sockaddr_in a = address("0.0.0.0", port);
  int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (void *)&a, sizeof a) < 0 || listen(listener, 4096) < 0) die("listen");
  struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, got[EVENTS];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &e);
  puts("ready");
  fflush(stdout);
  for (;;) {
    int n = epoll_wait(poll, got, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      int s = got[i].data.fd;
      if (s == listener) {
        for (int c; (c = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
          no_delay(c);
          struct epoll_event in = {.events = EPOLLIN, .data.fd = c};
          epoll_ctl(poll, EPOLL_CTL_ADD, c, &in);
        }
        continue;
      }
      char b[65536];
      ssize_t r = recv(s, b, sizeof b, 0);
      if (r > 0) r = send(s, b, r, MSG_NOSIGNAL);
      if (r == 0 || (r < 0 && errno != EAGAIN)) close(s);
    }
  }
}

static int latency(const char *host, const char *port, double length) {
  struct sockaddr_in a = address(host, port);
  int s = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(s, (void *)&a, sizeof a) < 0) die("connect");
  no_delay(s);
  char b[SIZE] = {0};
  double began = seconds(), now = began;
  while (now - began < length) {
    double sent = now;
    if (send(s, b, SIZE, MSG_NOSIGNAL) != SIZE) die("send");
    if (recv(s, b, SIZE, MSG_WAITALL) != SIZE) die("recv");
    now = seconds();
    sample(now - sent);
  }
  return report(now - began, 0);
}

struct attempt {
  int socket;
  double began;
};

static int poll_;

static void begin(struct attempt *t, struct sockaddr_in *to) {
  t->began = seconds();
  t->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (t->socket < 0) die("socket");
  no_delay(t->socket);
  if (connect(t->socket, (void *)to, sizeof *to) < 0 && errno != EINPROGRESS) die("connect");
  struct epoll_event e = {.events = EPOLLOUT, .data.ptr = t};
  epoll_ctl(poll_, EPOLL_CTL_ADD, t->socket, &e);
}

static void end(struct attempt *t) {
  struct linger reset = {.l_onoff = 1};
  setsockopt(t->socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  close(t->socket);
}

static int connects(const char *host, const char *port, double length, int width) {
  static struct attempt attempts[MOST_WIDE];
  struct sockaddr_in to = address(host, port);
  struct epoll_event got[EVENTS];
  size_t failed = 0;
  poll_ = epoll_create1(0);
  double began = seconds(), now = began;
  for (int i = 0; i < width && i < MOST_WIDE; i++) begin(&attempts[i], &to);
  while (now - began < length) {
    int n = epoll_wait(poll_, got, EVENTS, 100);
    now = seconds();
    for (int i = 0; i < n; i++) {
      struct attempt *t = got[i].data.ptr;
      char b = 'x';
      int more = 0;
      if (got[i].events & (EPOLLERR | EPOLLHUP)) failed++;
      else if (got[i].events & EPOLLIN) {
        if (recv(t->socket, &b, 1, 0) == 1) sample(now - t->began);
        else failed++;
      } else {
        more = send(t->socket, &b, 1, MSG_NOSIGNAL) == 1;
        if (!more) failed++;
      }
      if (more) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = t};
        epoll_ctl(poll_, EPOLL_CTL_MOD, t->socket, &e);
        continue;
      }
      end(t);
      begin(t, &to);
    }
  }
  return report(now - began, failed);
}

int main(int n, char **a) {
  if (n == 3 && !strcmp(a[1], "serve")) serve(a[2]);
  if (n == 5 && !strcmp(a[1], "latency")) return latency(a[2], a[3], atof(a[4]));
  if (n == 6 && !strcmp(a[1], "connects")) return connects(a[2], a[3], atof(a[4]), atoi(a[5]));
  fprintf(stderr, "usage: probe serve PORT | latency HOST PORT SECONDS | connects HOST PORT SECONDS WIDTH\n");
  return 2;
}
