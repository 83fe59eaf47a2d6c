// SPDX-License-Identifier: Apache-2.0
/*
 * Translation of one guest's MAC address, at the clsact hooks of its tap (B41): the guest knows `inside`, the network
 * knows `outside`.
 *
 * Theory of operation: `from_guest` replaces inside by outside, `to_guest` outside by inside, wherever a frame contains
 * a link-layer address: Ethernet header, ARP and RARP, DHCP (chaddr, client identifier), DHCPv6 (DUIDs, client
 * link-layer address), neighbour discovery (link-layer options). It skips up to three VLAN tags and IPv6 extension
 * headers. Checksums over a replaced address are corrected by the difference; the kernel leaves one that the card has
 * yet to compute (CHECKSUM_PARTIAL) alone. The two addresses are operands of instructions, which
 * src/engine/kernel/ebpf/mac-translation.ts writes into a copy of the object: no maps, and the program's tag proves
 * which addresses are in force. All bytes are read by helpers, so it does not matter where the kernel keeps them (jumbo
 * and GSO frames).
 *
 * A frame that could not be rewritten is dropped, as it would carry the wrong address. So is a frame from a foreign
 * station that has the inside address. Neighbour discovery from the guest that contains a third address gets the mark
 * MARK_FORGED; if its options do not fit the message exactly (RFC 4861, 4.6), the mark MARK_MALFORMED. The guard (nft)
 * drops and counts both (B91).
 *
 * Limits: of a fragmented message only the first fragment is translated. DHCP options in sname and file (option 52) are
 * not searched. IPv6 addresses derived from the MAC address (EUI-64) are not translated. Little-endian. Linux 5.3 and
 * later (bounded loops).
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

/* "anka", "ankb" */
#define MARK_FORGED 0x616e6b61
#define MARK_MALFORMED 0x616e6b62

/* Verdicts on a neighbour discovery message: results of the functions below. */
#define FORGED 1
#define MALFORMED 2

#define MAC_SIZE 6
#define ETHERNET_TYPE 12
#define VLAN_TAGS 3
#define DHCP_OPTIONS 128
#define DHCP6_OPTIONS 24
#define ND_OPTIONS 24
#define IP6_EXTENSIONS 6
/* No frame is longer. Keeps the verifier's bounds of an offset the same in every iteration of a loop. */
#define OFFSET_MASK 0x1ffff

#define loop_not_unrolled _Pragma("clang loop unroll(disable)")

/*
 * Notes in the context's scratch space, whose content the verifier does not track. With ordinary variables it would
 * follow every path to an iteration (tags, headers, options seen before) through all later iterations, which takes a
 * second per load.
 */
#define NOTE_OFFSET 0
#define NOTE_FIRST 1
#define NOTE_SECOND 2
#define NOTE_VERDICT 3

/* In assembly, as compilers compute the address, and the context may only be accessed at constant offsets. */
#define write_note(skb, n, value)                                                                                \
	asm volatile("*(u32 *)(%[c] + %[o]) = %[v]" ::[c] "r"(skb),                                              \
		     [o] "i"(offsetof(struct __sk_buff, cb) + 4 * (n)), [v] "r"((u32)(value))                    \
		     : "memory")
#define read_note(skb, n)                                                                                        \
	({                                                                                                       \
		u32 value_;                                                                                      \
		asm volatile("%[v] = *(u32 *)(%[c] + %[o])"                                                      \
			     : [v] "=r"(value_)                                                                  \
			     : [c] "r"(skb), [o] "i"(offsetof(struct __sk_buff, cb) + 4 * (n))                   \
			     : "memory");                                                                        \
		value_;                                                                                          \
	})

/* The same offset, of which the verifier knows only the bound. */
static __always_inline u32 blur(struct __sk_buff *skb, u32 offset)
{
	write_note(skb, NOTE_OFFSET, offset);
	return read_note(skb, NOTE_OFFSET) & OFFSET_MASK;
}

/* The address to replace, and the message's checksum. */
struct exchange {
	u64 from;
	u64 to;
	/* offset of the checksum in the frame; 0 = none */
	u32 checksum;
	/* offset of the first word that the checksum covers */
	u32 start;
	/* for bpf_l4_csum_replace */
	u32 flags;
};

/* Six bytes as a number whose lowest byte is the first of the frame. */
static __always_inline u64 inside_mac(void)
{
	u64 mac;

	asm volatile("%0 = 0x4544495341414b4e ll" : "=r"(mac));
	return mac;
}

static __always_inline u64 outside_mac(void)
{
	u64 mac;

	asm volatile("%0 = 0x4544495455414b4e ll" : "=r"(mac));
	return mac;
}

/* Replaces the address at an offset (0 = none) if it is `from`. Negative on failure. */
static __always_inline int exchange_at(struct __sk_buff *skb, const struct exchange *x, u32 at)
{
	u64 found = 0;
	u64 to = x->to;
	u64 recompute = BPF_F_RECOMPUTE_CSUM;

	at = blur(skb, at);
	if (at == 0 || x->from == x->to || bpf_skb_load_bytes(skb, at, &found, MAC_SIZE) < 0 || found != x->from)
		return 0;
	if (x->checksum) {
		/* at an odd distance the address is shifted by a byte in the words of the checksum */
		u32 shift = ((at - x->start) & 1) * 8;
		u64 old_words = x->from << shift;
		u64 new_words = x->to << shift;
		long difference = bpf_csum_diff((__be32 *)&old_words, sizeof(old_words), (__be32 *)&new_words, sizeof(new_words), 0);

		if (difference < 0 || bpf_l4_csum_replace(skb, x->checksum, 0, difference, x->flags) < 0)
			return -1;
		/* the sum over the whole frame is unchanged */
		recompute = 0;
	}
	return bpf_skb_store_bytes(skb, at, &to, MAC_SIZE, recompute);
}

/* RFC 826, 903: hardware addresses of sender and target, for any length of the protocol addresses. */
static __always_inline int arp(struct __sk_buff *skb, const struct exchange *x, u32 at)
{
	u8 sizes[2];

	if (bpf_skb_load_bytes(skb, at + 4, sizes, sizeof(sizes)) < 0 || sizes[0] != MAC_SIZE)
		return 0;
	if (exchange_at(skb, x, at + 8) < 0)
		return -1;
	return exchange_at(skb, x, at + 8 + MAC_SIZE + sizes[1]);
}

/* RFC 8415, 11: offset of the address, the end of an Ethernet DUID-LLT or DUID-LL; 0 = none. */
static __always_inline u32 mac_of_duid(struct __sk_buff *skb, u32 at, u32 size)
{
	u16 head[2]; /* type, hardware type */

	if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0 || head[1] != bpf_htons(1))
		return 0;
	if ((head[0] == bpf_htons(3) && size == 4 + MAC_SIZE) || (head[0] == bpf_htons(1) && size == 8 + MAC_SIZE))
		return at + size - MAC_SIZE;
	return 0;
}

/* RFC 2132, 9.14 and RFC 4361: offset of the address in option 61, whose code is at `at`; 0 = none. */
static __always_inline u32 mac_of_client_identifier(struct __sk_buff *skb, u32 at)
{
	u8 head[3]; /* code, size, type */

	if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0)
		return 0;
	if (head[2] == 1 && head[1] == 1 + MAC_SIZE)
		return at + 3;
	if (head[2] == 255 && head[1] > 5)
		return mac_of_duid(skb, at + 7, head[1] - 5);
	return 0;
}

/* RFC 2131: `at` is the message's first byte. */
static __always_inline int dhcp(struct __sk_buff *skb, const struct exchange *x, u32 at)
{
	u8 head[3]; /* op, hardware type, length of the address */
	u32 cookie;

	if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0 || head[1] != 1 || head[2] != MAC_SIZE)
		return 0;
	if (exchange_at(skb, x, at + 28) < 0)
		return -1;
	if (bpf_skb_load_bytes(skb, at + 236, &cookie, sizeof(cookie)) < 0 || cookie != bpf_htonl(0x63825363))
		return 0;
	at += 240;
	loop_not_unrolled for (int i = 0; i < DHCP_OPTIONS; i++)
	{
		u8 code;
		u8 size;

		at = blur(skb, at);
		if (bpf_skb_load_bytes(skb, at, &code, 1) < 0 || code == 255)
			return 0;
		if (code == 61)
			break;
		at++;
		if (code == 0)
			continue;
		if (bpf_skb_load_bytes(skb, at, &size, 1) < 0)
			return 0;
		at += 1 + size;
	}
	at = blur(skb, at);
	return exchange_at(skb, x, mac_of_client_identifier(skb, at));
}

/* Offset of the address in a DHCPv6 option; 0 = none, or no such option. */
static __always_inline u32 mac_of_dhcp6_option(struct __sk_buff *skb, u32 at)
{
	u16 head[2]; /* code, size */

	if (at == 0 || bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0)
		return 0;
	if (head[0] == bpf_htons(79))
		return head[1] == bpf_htons(2 + MAC_SIZE) ? at + 6 : 0;
	return mac_of_duid(skb, at + 4, bpf_ntohs(head[1]));
}

/* RFC 8415 (DUIDs of client and server) and RFC 6939 (client link-layer address, from relays). */
static __always_inline int dhcp6(struct __sk_buff *skb, const struct exchange *x, u32 at)
{
	u8 type;

	if (bpf_skb_load_bytes(skb, at, &type, 1) < 0)
		return 0;
	at += type == 12 || type == 13 ? 34 : 4;
	write_note(skb, NOTE_FIRST, 0);
	write_note(skb, NOTE_SECOND, 0);
	loop_not_unrolled for (int i = 0; i < DHCP6_OPTIONS; i++)
	{
		u16 head[2]; /* code, size */

		at = blur(skb, at);
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0)
			break;
		if (head[0] == bpf_htons(1) || head[0] == bpf_htons(79))
			write_note(skb, NOTE_FIRST, at);
		if (head[0] == bpf_htons(2))
			write_note(skb, NOTE_SECOND, at);
		at += 4 + bpf_ntohs(head[1]);
	}
	if (exchange_at(skb, x, mac_of_dhcp6_option(skb, read_note(skb, NOTE_FIRST) & OFFSET_MASK)) < 0)
		return -1;
	return exchange_at(skb, x, mac_of_dhcp6_option(skb, read_note(skb, NOTE_SECOND) & OFFSET_MASK));
}

/* `at` is the UDP header. */
static __always_inline int udp(struct __sk_buff *skb, struct exchange *x, u32 at, bool ip6)
{
	u16 head[4]; /* ports, length, checksum */
	u16 low = bpf_htons(ip6 ? 546 : 67);
	u16 high = bpf_htons(ip6 ? 547 : 68);

	if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0)
		return 0;
	if (head[0] != low && head[0] != high && head[1] != low && head[1] != high)
		return 0;
	x->checksum = blur(skb, head[3] == 0 ? 0 : at + 6);
	x->start = at;
	x->flags = BPF_F_MARK_MANGLED_0;
	return ip6 ? dhcp6(skb, x, at + 8) : dhcp(skb, x, at + 8);
}

/*
 * RFC 4861: link-layer options of RS, RA, NS, NA and redirect, up to `end`. FORGED if the guest sends an address that
 * is not its own, MALFORMED if an option has length zero or exceeds the message.
 */
static __always_inline int neighbour_discovery(struct __sk_buff *skb, struct exchange *x, u32 at, u32 end)
{
	u8 type;

	if (bpf_skb_load_bytes(skb, at, &type, 1) < 0 || type < 133 || type > 137)
		return 0;
	x->checksum = at + 2;
	x->start = at;
	x->flags = 0;
	at += type == 133 ? 8 : type == 134 ? 16 : type == 137 ? 40 : 24;
	write_note(skb, NOTE_FIRST, 0);
	write_note(skb, NOTE_SECOND, 0);
	write_note(skb, NOTE_VERDICT, 0);
	loop_not_unrolled for (int i = 0;; i++)
	{
		u8 head[2]; /* type, size in units of eight bytes */
		u64 mac = 0;

		at = blur(skb, at);
		if (at == end)
			break;
		if (i == ND_OPTIONS) {
			write_note(skb, NOTE_VERDICT, FORGED); /* more options than any real guest sends */
			break;
		}
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0 || head[1] == 0 || at + head[1] * 8 > end) {
			write_note(skb, NOTE_VERDICT, MALFORMED);
			break;
		}
		if ((head[0] == 1 || head[0] == 2) && bpf_skb_load_bytes(skb, at + 2, &mac, MAC_SIZE) == 0) {
			/* source or target link-layer address; each once */
			if (mac == x->from && head[0] == 1)
				write_note(skb, NOTE_FIRST, at + 2);
			else if (mac == x->from)
				write_note(skb, NOTE_SECOND, at + 2);
			else if (mac != x->to)
				write_note(skb, NOTE_VERDICT, FORGED);
		}
		at += head[1] * 8;
	}
	if (exchange_at(skb, x, read_note(skb, NOTE_FIRST)) < 0 || exchange_at(skb, x, read_note(skb, NOTE_SECOND)) < 0)
		return -1;
	return read_note(skb, NOTE_VERDICT) & (FORGED | MALFORMED);
}

static __always_inline int ip4(struct __sk_buff *skb, struct exchange *x, u32 at)
{
	u8 head[10];

	if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0)
		return 0;
	/* UDP, and the first fragment */
	if (head[9] != 17 || (head[6] & 0x1f) || head[7])
		return 0;
	return udp(skb, x, at + (head[0] & 15) * 4, false);
}

static __always_inline int ip6(struct __sk_buff *skb, struct exchange *x, u32 at)
{
	u16 length;
	u32 end;
	u8 next;

	if (bpf_skb_load_bytes(skb, at + 4, &length, sizeof(length)) < 0 || bpf_skb_load_bytes(skb, at + 6, &next, 1) < 0)
		return 0;
	at += 40;
	end = at + bpf_ntohs(length);
	loop_not_unrolled for (int i = 0; i < IP6_EXTENSIONS; i++)
	{
		u8 head[4];

		at = blur(skb, at);
		if (next == 58)
			return neighbour_discovery(skb, x, at, end);
		if (next == 17)
			return udp(skb, x, at, true);
		if (next != 0 && next != 43 && next != 44 && next != 60)
			return 0;
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) < 0)
			return 0;
		if (next == 44 && (head[2] || head[3] & 0xf8))
			return 0;
		at += next == 44 ? 8 : (head[1] + 1) * 8;
		next = head[0];
	}
	return FORGED;
}

static __always_inline int translate(struct __sk_buff *skb, u64 from, u64 to, bool from_guest)
{
	struct exchange x = { .from = from, .to = to };
	u64 source = 0;
	u64 destination = 0;
	u32 at = ETHERNET_TYPE;
	u16 type;
	int result = 0;

	if (bpf_skb_load_bytes(skb, 0, &destination, MAC_SIZE) < 0 || bpf_skb_load_bytes(skb, MAC_SIZE, &source, MAC_SIZE) < 0)
		return TC_ACT_SHOT;
	/* No checksum to correct here: the kernel's starts behind the Ethernet header. */
	if (from != to) {
		if (!from_guest && destination == to)
			return TC_ACT_SHOT;
		if (source == from && bpf_skb_store_bytes(skb, MAC_SIZE, &to, MAC_SIZE, 0) < 0)
			return TC_ACT_SHOT;
		if (destination == from && bpf_skb_store_bytes(skb, 0, &to, MAC_SIZE, 0) < 0)
			return TC_ACT_SHOT;
	}
	if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)) < 0)
		return TC_ACT_UNSPEC;
	loop_not_unrolled for (int i = 0; i < VLAN_TAGS; i++)
	{
		if (type != bpf_htons(0x8100) && type != bpf_htons(0x88a8) && type != bpf_htons(0x9100))
			break;
		at += 4;
		if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)) < 0)
			return TC_ACT_UNSPEC;
	}
	at = blur(skb, at + 2);
	if (type == bpf_htons(0x0806) || type == bpf_htons(0x8035))
		result = arp(skb, &x, at);
	else if (type == bpf_htons(0x0800))
		result = ip4(skb, &x, at);
	else if (type == bpf_htons(0x86dd))
		result = ip6(skb, &x, at);
	if (result < 0)
		return TC_ACT_SHOT;
	if (result > 0 && from_guest)
		skb->mark = result == FORGED ? MARK_FORGED : MARK_MALFORMED;
	/* on to the next filter, if any */
	return TC_ACT_UNSPEC;
}

SEC("tc/from_guest")
int from_guest(struct __sk_buff *skb)
{
	return translate(skb, inside_mac(), outside_mac(), true);
}

SEC("tc/to_guest")
int to_guest(struct __sk_buff *skb)
{
	return translate(skb, outside_mac(), inside_mac(), false);
}

/* no helper used here requires the GPL */
char _license[] SEC("license") = "Apache-2.0";
