/**
 * Rate limits of the gateway's services per NIC, so that one guest cannot starve the others. Both engines use them.
 * Requests beyond a limit are dropped as `rate_limit`, address claims as `address_limit`.
 *
 * A guest that boots sends a handful of DHCP messages; a busy resolver sends some hundred queries a second.
 */

/** DHCP messages: burst size, and the time in ms that refills it. */
export const DHCP_MOST = 50;
export const DHCP_MS = 5000;
/** DNS queries by UDP: burst size, and the time in ms that refills it. */
export const NAMES_MOST = 1000;
export const NAMES_MS = 1000;
/** New addresses claimed by ARP: burst size, and the time in ms that refills it. */
export const CLAIMS_MOST = 16;
export const CLAIMS_MS = 1000;
/** Addresses without a claim that a guest is asked for: burst size, and the time in ms that refills it. */
export const UNHEARD_MOST = 4;
export const UNHEARD_MS = 1000;
/** ICMP errors to a guest, of the user engine: burst size, and the time in ms that refills it. Linux allows as many. */
export const ERRORS_MOST = 50;
export const ERRORS_MS = 50;
