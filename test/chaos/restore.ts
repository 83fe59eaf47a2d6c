/** Brings VMs, rules and settings back to what they were, by the requests that the commands send. */
import type { NetworkCardRequest, SettingValue, VmDescribe, VmListEntry } from '../../src/api/types.ts';
import type { Guest, Site } from './site.ts';

/** Settings that actions change. */
const SETTINGS = ['shared_subnet', 'dns_servers'];

/** One request, and what it is for. */
interface Correction {
  what: string;
  send: () => Promise<unknown>;
}

/** Sends what is to be done; returns the requests that failed. */
export async function restore(site: Site): Promise<string[]> {
  const failed: string[] = [];
  const send = async ({ what, send: request }: Correction): Promise<void> => {
    await request().catch((cause: Error) => failed.push(`${what}: ${cause.message}`));
  };
  const settings = await site.read<SettingValue[]>('/v1/config');
  for (const s of settings)
    if (SETTINGS.includes(s.key) && s.source !== 'default') await send({ what: `reset ${s.key}`, send: () => site.api.delete(`/v1/config/${s.key}`) });
  const vms = await site.read<VmListEntry[]>('/v1/vms');
  for (const v of vms)
    if (!site.guests.some((g) => g.uuid === v.uuid)) await send({ what: `delete ${v.name}`, send: () => site.api.delete(`/v1/vms/${v.uuid}`) });
  const restored = site.guests.map(async (g) => {
    const config = await site.read<VmDescribe>(`/v1/vms/${g.uuid}/config`);
    for (const c of corrections(site, g, config)) await send(c);
    const status = vms.find((v) => v.uuid === g.uuid)?.status;
    if (status !== 'running') await send({ what: `start ${g.name}`, send: () => site.api.post(`/v1/vms/${g.uuid}/start`) });
  });
  await Promise.all(restored);
  return failed;
}

/** What brings a VM back to its configuration. */
function corrections(site: Site, g: Guest, now: VmDescribe): Correction[] {
  const path = `/v1/vms/${g.uuid}`;
  const todo: Correction[] = [];
  if (now.name !== g.name) todo.push({ what: `rename ${now.name}`, send: () => site.api.patch(path, { name: g.name }) });
  const [card] = now.network_cards;
  if (!card) todo.push({ what: `add a card to ${g.name}`, send: () => site.api.post(`${path}/network-card`) });
  const change: NetworkCardRequest = {
    ...(card && card.mode !== 'shared' ? { type: 'shared' } : {}),
    ...(card && !card.local ? { isolated: false } : {}),
    ...(card?.ip === undefined ? {} : { ip: 'auto' }),
    ...(card && card.mac_address !== '' ? { mac: null } : {}),
  };
  if (Object.keys(change).length > 0) todo.push({ what: `change the card of ${g.name}`, send: () => site.api.put(`${path}/network-card`, change) });
  const rules = card?.port_forwarding_rules ?? [];
  for (const r of rules)
    if (!g.rules.some((x) => x.name === r.rule_name))
      todo.push({ what: `delete rule ${r.rule_name}`, send: () => site.api.delete(`${path}/port-forwarding/${r.rule_name}`) });
  for (const r of g.rules)
    if (!rules.some((x) => x.rule_name === r.name)) todo.push({ what: `add rule ${r.name}`, send: () => site.api.post(`${path}/port-forwarding`, r.request) });
  return todo;
}
