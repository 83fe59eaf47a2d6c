/* Prints a line for each change of an Ethernet interface: `new NAME`, `carrier NAME 0|1`, `del NAME`. The tiny guest's
 * init reads them instead of polling, which costs an emulated CPU. Source: rtnetlink(7), RTMGRP_LINK. */
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINK_COUNT 64

struct link {
	int index;
	int carrier; /* -1: unknown, as the interface is down */
	char name[IFNAMSIZ];
};

static struct link links[LINK_COUNT];

static struct link *find(int index)
{
	for (int i = 0; i < LINK_COUNT; i++)
		if (links[i].index == index)
			return &links[i];
	return NULL;
}

static void on_link(const struct nlmsghdr *h)
{
	const struct ifinfomsg *info = NLMSG_DATA(h);
	int length = (int)(h->nlmsg_len - NLMSG_LENGTH(sizeof(*info)));
	const char *name = "";
	struct link *link = find(info->ifi_index);

	if (info->ifi_type != 1 /* ARPHRD_ETHER */)
		return;
	for (struct rtattr *a = IFLA_RTA(info); RTA_OK(a, length); a = RTA_NEXT(a, length))
		if (a->rta_type == IFLA_IFNAME)
			name = RTA_DATA(a);
	if (h->nlmsg_type == RTM_DELLINK) {
		if (link) {
			printf("del %s\n", link->name);
			memset(link, 0, sizeof(*link));
		}
		return;
	}
	if (!link && (link = find(0))) {
		link->index = info->ifi_index;
		link->carrier = -1;
		snprintf(link->name, sizeof(link->name), "%s", name);
		printf("new %s\n", link->name);
	}
	if (!link || !(info->ifi_flags & IFF_UP))
		return;
	int carrier = (info->ifi_flags & IFF_LOWER_UP) != 0;
	if (carrier != link->carrier)
		printf("carrier %s %d\n", link->name, carrier);
	link->carrier = carrier;
}

int main(void)
{
	struct sockaddr_nl local = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };
	struct { struct nlmsghdr h; struct rtgenmsg g; } dump = {
		.h = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtgenmsg)), .nlmsg_type = RTM_GETLINK,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.g = { .rtgen_family = AF_UNSPEC },
	};
	static char buffer[65536];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&local, sizeof(local)) < 0 || send(fd, &dump, sizeof(dump), 0) < 0) {
		perror("netlink");
		return 1;
	}
	for (;;) {
		long n = recv(fd, buffer, sizeof(buffer), 0);

		if (n < 0) { /* ENOBUFS: messages were lost, so read the state again */
			send(fd, &dump, sizeof(dump), 0);
			continue;
		}
		for (struct nlmsghdr *h = (struct nlmsghdr *)buffer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n))
			if (h->nlmsg_type == RTM_NEWLINK || h->nlmsg_type == RTM_DELLINK)
				on_link(h);
	}
}
