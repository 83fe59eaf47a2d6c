// SPDX-License-Identifier: Apache-2.0
/*
 * The no-touch bridge: connects a host's network interface to a segment of VMs without putting the interface into a
 * bridge (B16, B19).
 *
 * Theory of operation: the segment is a Linux bridge of ours with the VMs' taps; the port is one end of a veth pair
 * whose other end is in that bridge. Three programs carry frames between the interface (`nic`), the host's own stack
 * above it, and the port:
 *   nic_in   (wire to host)  unicast to a VM: to the port; group: a copy to the port, and on to the host; others: on to
 *                            the host
 *   nic_out  (host to wire)  unicast to a VM: to the port instead of the wire; group: a copy to the port, and on to the
 *                            wire
 *   port_in  (VM to network) unicast to the host: into its stack as if received from the wire; group: a copy there, and
 *                            to the wire; others: to the wire
 * VMs' addresses are looked up in a sorted table, by exact match. Frames sent by one of them pass nic_in and nic_out
 * untouched: they are our own, on their second pass, so there is no loop and no copy of a copy. VLAN tags stay in the
 * frame's metadata.
 *
 * The interface's two programs are at its clsact hooks or at those of tcx, where TC_ACT_UNSPEC, SHOT and REDIRECT are
 * TCX_NEXT, DROP and REDIRECT by number. A function's name is its program's name in the kernel, by which
 * src/engine/kernel/bridging/uplink-tcx.ts recognizes it as ours.
 *
 * The configuration is one constant, which src/engine/kernel/bridging/no-touch-object.ts writes into a copy of the
 * object; replacing a filter replaces the table with it atomically.
 *
 * Link-local groups (01:80:c2:00:00:0x: spanning tree, pause, LLDP) never cross: a guest cannot make a switch disable
 * the host's port.
 *
 * Limits: 256 VMs per interface. An interface on top of the NIC (a container's macvlan) counts as a station of the
 * wire, which VMs cannot reach. An isolated VM (--no-local) still receives what the host sends to a group.
 * Little-endian.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;

#define MAC_SIZE 6
#define TABLE_SIZE 256
#define MAC_BITS 0x0000ffffffffffffULL
#define IS_VM 1
#define IS_ISOLATED 2

/* An address is a number whose lowest byte is the first of the frame. */
struct config {
	char marker[8];
	u32 nic;
	u32 port;
	u64 host;
	/*
	 * sorted by the lower 48 bits, which are the address, with flags above; unused entries are at the end, with all
	 * address bits set and no flag
	 */
	u64 vms[TABLE_SIZE];
};

volatile const struct config config = { .marker = "ANKANTB" };

/* Flags of an address; 0 = not a VM. Without branches, so that the verifier follows the search once. */
static __always_inline u32 flags_of(u64 mac)
{
	u32 at = 0;
	u64 entry;

#pragma unroll
	for (int log = 7; log >= 0; log--) {
		u64 candidate = config.vms[(at + (1u << log)) & (TABLE_SIZE - 1)] & MAC_BITS;

		at += (u32)((candidate - mac - 1) >> 63) << log;
	}
	entry = config.vms[at & (TABLE_SIZE - 1)];
	return (entry & MAC_BITS) == mac ? (u32)(entry >> 48) : 0;
}

static __always_inline bool is_group(u64 mac)
{
	return mac & 1;
}

static __always_inline bool is_of_the_link(u64 mac)
{
	/* 01:80:c2:00:00:00 to 0f */
	return (mac & 0xf0ffffffffffULL) == 0x000000c28001ULL;
}

static __always_inline int addresses(struct __sk_buff *skb, u64 *destination, u64 *source)
{
	*destination = 0;
	*source = 0;
	return bpf_skb_load_bytes(skb, 0, destination, MAC_SIZE) < 0 || bpf_skb_load_bytes(skb, MAC_SIZE, source, MAC_SIZE) < 0 ? -1 : 0;
}

SEC("tc/nic_in")
int anka_nic_in(struct __sk_buff *skb)
{
	u64 destination, source;

	if (addresses(skb, &destination, &source) || flags_of(source))
		return TC_ACT_UNSPEC;
	if (is_group(destination)) {
		if (!is_of_the_link(destination))
			bpf_clone_redirect(skb, config.port, 0);
		return TC_ACT_UNSPEC;
	}
	return flags_of(destination) ? bpf_redirect(config.port, 0) : TC_ACT_UNSPEC;
}

SEC("tc/nic_out")
int anka_nic_out(struct __sk_buff *skb)
{
	u64 destination, source;
	u32 flags;

	if (addresses(skb, &destination, &source) || flags_of(source))
		return TC_ACT_UNSPEC;
	if (is_group(destination)) {
		if (!is_of_the_link(destination))
			bpf_clone_redirect(skb, config.port, 0);
		return TC_ACT_UNSPEC;
	}
	flags = flags_of(destination);
	if (flags == 0)
		return TC_ACT_UNSPEC;
	return flags & IS_ISOLATED ? TC_ACT_SHOT : bpf_redirect(config.port, 0);
}

SEC("tc/port_in")
int anka_port_in(struct __sk_buff *skb)
{
	u64 destination, source;
	u32 flags;

	if (addresses(skb, &destination, &source) || is_of_the_link(destination))
		return TC_ACT_SHOT;
	flags = flags_of(source);
	if (flags == 0)
		return TC_ACT_SHOT;
	if (is_group(destination)) {
		if (!(flags & IS_ISOLATED))
			bpf_clone_redirect(skb, config.nic, BPF_F_INGRESS);
		return bpf_redirect(config.nic, 0);
	}
	if (destination == config.host)
		return flags & IS_ISOLATED ? TC_ACT_SHOT : bpf_redirect(config.nic, BPF_F_INGRESS);
	/* unicast to another VM: the segment has forwarded it already */
	return flags_of(destination) ? TC_ACT_SHOT : bpf_redirect(config.nic, 0);
}

/* no helper used here requires the GPL */
char _license[] SEC("license") = "Apache-2.0";
