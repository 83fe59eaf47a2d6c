/**
 * How much of what the gateway serves one card may ask for, so that there is enough for the others: the same for both
 * engines. What is beyond is dropped as `rate_limit`, but claims of addresses, which are `address_limit`.
 *
 * A guest that starts says a handful of DHCP messages; a busy resolver asks for some hundred names a second.
 */

/** DHCP messages at once, and in `DHCP_MS`. */
export const DHCP_MOST = 50;
export const DHCP_MS = 5000;
/** Queries for names by UDP at once, and in each second. */
export const NAMES_MOST = 1000;
export const NAMES_MS = 1000;
/** New addresses claimed by ARP at once, and in each second. */
export const CLAIMS_MOST = 16;
export const CLAIMS_MS = 1000;
