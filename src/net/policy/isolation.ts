/**
 * `--no-local`: an isolated card reaches the gateway's DHCP and DNS and the outside, but no other VM and not the host.
 */
import { DHCP_CLIENT_PORT } from '../../wire/dhcpv4.ts';

/** Two cards of one network exchange nothing. */
export const areIsolated = (a: { readonly isolated: boolean }, b: { readonly isolated: boolean }): boolean => a.isolated || b.isolated;

/**
 * The host may begin a flow to an isolated card: DHCP answers, and what a listener of the card's own rules forwards.
 */
export function hostReachesIsolated(
  protocol: string,
  port: number | null,
  rules: readonly { readonly protocol: 'tcp' | 'udp'; readonly guestPort: number }[],
): boolean {
  return (protocol === 'udp' && port === DHCP_CLIENT_PORT) || rules.some((r) => r.protocol === protocol && r.guestPort === port);
}
