/**
 * MAC address of the gateway on each network: the same as the kernel engine's bridges, so that guests keep their ARP
 * entries.
 */
export const GATEWAY_MAC = { shared: 0x5a4545004001, host: 0x5a4545008001 } as const;
