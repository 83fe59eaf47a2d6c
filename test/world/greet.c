/* greet tcp|udp ADDRESS PORT SECONDS: prints what a server sends to a new client, or `refused`, `reset`, `unreachable`,
 * `closed`, `timeout`, or the name of another error. A UDP server is asked twice a second by a connected socket, which
 * takes answers only from the address that it asked; errors about it are ignored. A program of its own, as tests start
 * hundreds of clients. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int answer(const char *text)
{
	puts(text);
	return 0;
}

static int failure(int error)
{
	switch (error) {
	case ECONNREFUSED:
		return answer("refused");
	case ECONNRESET:
		return answer("reset");
	case EHOSTUNREACH:
	case ENETUNREACH:
		return answer("unreachable");
	default:
		return answer(strerrorname_np(error));
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to4 = { .sin_family = AF_INET };
	struct sockaddr_in6 to6 = { .sin6_family = AF_INET6 };
	int error = 0;
	socklen_t size = sizeof(error);
	char text[65536];
	ssize_t n = 0;

	int is6 = argc == 5 && inet_pton(AF_INET6, argv[2], &to6.sin6_addr) == 1;
	struct sockaddr *to = is6 ? (struct sockaddr *)&to6 : (struct sockaddr *)&to4;
	socklen_t length = is6 ? sizeof(to6) : sizeof(to4);

	if (argc != 5 || (!is6 && inet_pton(AF_INET, argv[2], &to4.sin_addr) != 1)) {
		fputs("usage: greet tcp|udp ADDRESS PORT SECONDS\n", stderr);
		return 2;
	}
	to4.sin_port = to6.sin6_port = htons((uint16_t)atoi(argv[3]));
	int seconds = atoi(argv[4]), udp = strcmp(argv[1], "udp") == 0;
	int fd = socket(to->sa_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	if (udp) {
		for (int i = 0, connected = 0; i < seconds * 2; i++) {
			connected = connected || connect(fd, to, length) == 0;
			if (connected)
				send(fd, "x", 1, 0);
			if (connected && poll(&wait, 1, 500) > 0 && (n = recv(fd, text, sizeof(text) - 1, 0)) > 0) {
				text[n] = 0;
				return answer(text);
			}
			if (!connected || n < 0)
				poll(NULL, 0, 500);
			n = 0;
		}
		return answer("timeout");
	}
	if (connect(fd, to, length) < 0 && errno != EINPROGRESS)
		return failure(errno);
	wait.events = POLLOUT;
	if (poll(&wait, 1, seconds * 1000) <= 0)
		return answer("timeout");
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error)
		return failure(error);
	wait.events = POLLIN;
	if (poll(&wait, 1, seconds * 1000) <= 0)
		return answer("timeout");
	n = recv(fd, text, sizeof(text) - 1, 0);
	if (n < 0)
		return failure(errno);
	if (n == 0)
		return answer("closed");
	text[n] = 0;
	text[strcspn(text, "\n")] = 0;
	return answer(text);
}
