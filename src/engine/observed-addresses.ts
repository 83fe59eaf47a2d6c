/** What engines report about the addresses of a NIC. */
import type { CardAddresses } from '../net/addresses/card-addresses.ts';
import type { ExplainedCard } from '../net/explain/host-state.ts';
import type { ObservedAddress, ObservedNic } from './engine.ts';

/** The addresses of a NIC of a network with a gateway, the main one first. */
export function observeAddresses(card: CardAddresses, now: number): ObservedAddress[] {
  return card.list().map(({ ip, source, since, heard }) => ({ ip, source, age: now - since, heard: heard < 0 ? null : now - heard }));
}

/** A NIC's addresses, as `explain` takes them. */
export function explainedAddresses(nics: readonly ObservedNic[], id: string): Pick<ExplainedCard, 'ip' | 'addresses' | 'virtual'> {
  const nic = nics.find((n) => n.id === id);
  const addresses = nic?.addresses ?? [];
  return { ip: nic?.ip ?? null, addresses: addresses.map((a) => a.ip), virtual: addresses.flatMap((a) => (a.source === 'virtual' ? [a.ip] : [])) };
}
