// SPDX-License-Identifier: Apache-2.0
/*
 * Puts one guest into a VLAN, at the clsact hooks of its tap: `from_guest` tags frames, `to_guest` passes frames with
 * that tag, without it, and drops the others.
 *
 * Theory of operation: the guest sees an untagged network, and the bridge of its tap sees tagged frames; nothing on the
 * bridge is configured. The VLAN's number is a constant, which src/engine/kernel/ebpf/vlan-tags.ts writes into a copy
 * of the object.
 *
 * Limits: a guest in a VLAN cannot send tagged frames (no QinQ): they are dropped. 802.1Q only.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct config {
	char marker[8];
	/* 1-4094 */
	__u32 vlan;
};

volatile const struct config config = { .marker = "ANKAVLN" };

SEC("tc/from_guest")
int from_guest(struct __sk_buff *skb)
{
	if (skb->vlan_present || bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), config.vlan) < 0)
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

SEC("tc/to_guest")
int to_guest(struct __sk_buff *skb)
{
	if (!skb->vlan_present || skb->vlan_proto != bpf_htons(ETH_P_8021Q) || (skb->vlan_tci & 0xfff) != config.vlan)
		return TC_ACT_SHOT;
	return bpf_skb_vlan_pop(skb) < 0 ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* no helper used here requires the GPL */
char _license[] SEC("license") = "Apache-2.0";
