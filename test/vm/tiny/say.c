/* Reads Ethernet frames from standard input, one line of hex each, and sends them on eth0. Setuid root in the guest;
 * linked statically, so that it runs in any guest. */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("eth0") };
	int fd = socket(AF_PACKET, SOCK_RAW, htons(0x0003));
	static char line[8192];
	unsigned char frame[4096];

	if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
		perror("eth0");
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		size_t n = 0;
		unsigned byte;

		while (n < sizeof(frame) && sscanf(line + 2 * n, "%2x", &byte) == 1)
			frame[n++] = (unsigned char)byte;
		if (n > 0 && send(fd, frame, n, 0) < 0) {
			perror("send");
			return 1;
		}
		usleep(2000);
	}
	return 0;
}
