/** Declares the commands that look at packets: capture and explain. */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { declare } from './command.ts';

export function addPacketCommands(root: Command, s: Session): void {
  declare(root, 'capture <VM> [FILTER...]', {
    summary: "Capture the frames of a VM's network card as pcapng.",
    details: 'FILTER has the syntax of tcpdump.',
    examples: ['anka capture vm1 -w vm1.pcapng', 'anka capture vm1 | tshark -r -', 'anka capture --side outside -w arp.pcapng vm1 arp or icmp'],
  })
    .option('--side <SIDE>', 'Capture frames as the guest sees them (inside, the default) or as the network does (outside).')
    .option('-w, --write <FILE>', 'Write to FILE. Without it, or with -, write to standard output, which must not be a terminal.')
    .action(async (vm, words, o) => (await import('../commands/capture.ts')).capture(s, vm, words, o));
  // `from` and `to` are words, not options: the command parses them itself
  declare(root, 'explain <VM> <PACKET...>', {
    summary: 'Show what happens to a packet, and which rule decides.',
    usage: '[OPTIONS] VM [from ADDR[:PORT]] to ADDR[:PORT] [tcp|udp|icmp|other]',
    details: 'PACKET is [from ADDR[:PORT]] to ADDR[:PORT] [tcp|udp|icmp|other], where ADDR is an IP address or the name of a VM.',
    examples: [
      'anka explain vm1 to 198.51.100.1:443',
      'anka explain vm1 to 192.168.64.1:53 udp',
      'anka explain vm1 to vm2 icmp',
      'anka explain vm1 from 203.0.113.9 to vm1:22            # inbound, to the VM',
      'anka explain vm1 from 203.0.113.9 to 10.9.0.2:10001    # inbound, to a forwarded port of the host',
      'anka explain vm1 from 192.168.64.77 to 198.51.100.1    # outbound, with a spoofed source address',
      'anka -j explain vm1 to 255.255.255.255:67 udp',
    ],
  }).action(async (vm, words) => (await import('../commands/explain.ts')).explain(s, vm, words));
}
