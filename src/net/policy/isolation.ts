/**
 * `--no-local`: an isolated card reaches the gateway's DHCP and DNS and the outside, but no other VM and not the host.
 */
import { DHCP_CLIENT_PORT } from '../../wire/dhcpv4.ts';

/** Two cards of one network exchange nothing. */
export const areIsolated = (a: { readonly isolated: boolean }, b: { readonly isolated: boolean }): boolean => a.isolated || b.isolated;

interface GuestPort {
  readonly protocol: 'tcp' | 'udp';
  readonly guestPort: number;
}

/** The port of the guest's login, by which `anka run`, `ssh`, `cp` and `mount` reach it. */
const LOGIN: GuestPort = { protocol: 'tcp', guestPort: 22 };

/** The ports of an isolated guest that the host reaches: those of the card's own rules, and its login. */
export const openToHost = (rules: readonly GuestPort[]): readonly GuestPort[] => [...rules, LOGIN];

/** The host may begin a flow to an isolated card: DHCP answers, and what is open to it. */
export function hostReachesIsolated(protocol: string, port: number | null, open: readonly GuestPort[]): boolean {
  return (protocol === 'udp' && port === DHCP_CLIENT_PORT) || open.some((r) => r.protocol === protocol && r.guestPort === port);
}
