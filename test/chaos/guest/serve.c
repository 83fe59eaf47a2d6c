/* serve NAME PORT: sends each TCP and UDP client `NAME sees ADDRESS`, then echoes what TCP clients send. With too many
 * TCP clients, the one that came first is closed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS 256

/* The two listening sockets, then the TCP clients. */
static struct pollfd fds[2 + CLIENTS];
static int count = 2;

static int listener(int type, int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, type, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || (type == SOCK_STREAM && listen(fd, 1024) < 0)) {
		perror("serve");
		exit(1);
	}
	return fd;
}

static void end(int i)
{
	close(fds[i].fd);
	memmove(&fds[i], &fds[i + 1], (size_t)(--count - i) * sizeof(fds[0]));
}

static int greeting(char *text, size_t size, const char *name, const struct sockaddr_in *from)
{
	return snprintf(text, size, "%s sees %s\n", name, inet_ntoa(from->sin_addr));
}

int main(int argc, char **argv)
{
	struct sockaddr_in from;
	socklen_t size;
	char data[4096];

	if (argc != 3)
		return 2;
	fds[0] = (struct pollfd){ .fd = listener(SOCK_STREAM, atoi(argv[2])), .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = listener(SOCK_DGRAM, atoi(argv[2])), .events = POLLIN };
	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		poll(fds, (nfds_t)count, -1);
		for (int i = count - 1; i >= 2; i--) {
			if (!fds[i].revents)
				continue;
			ssize_t n = recv(fds[i].fd, data, sizeof(data), MSG_DONTWAIT);

			/* what its client does not read is dropped */
			if (n <= 0 || send(fds[i].fd, data, (size_t)n, MSG_DONTWAIT) <= 0)
				end(i);
		}
		size = sizeof(from);
		if (fds[1].revents && recvfrom(fds[1].fd, data, 1, 0, (struct sockaddr *)&from, &size) >= 0)
			sendto(fds[1].fd, data, (size_t)greeting(data, sizeof(data), argv[1], &from), 0, (struct sockaddr *)&from, size);
		if (!fds[0].revents)
			continue;
		size = sizeof(from);
		int fd = accept4(fds[0].fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		if (count == 2 + CLIENTS)
			end(2);
		fds[count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		send(fd, data, (size_t)greeting(data, sizeof(data), argv[1], &from), MSG_DONTWAIT);
	}
}
