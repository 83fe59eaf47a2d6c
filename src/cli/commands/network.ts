/** `anka network list` and `reset`. */
import type { NetworkStatus } from '../../api/types.ts';
import { grid } from '../output/grid.ts';
import type { Session } from '../session.ts';

export async function listNetworks(s: Session): Promise<void> {
  const all = await (await s.daemon()).get<NetworkStatus[]>('/v1/networks');
  s.out.done(
    all,
    grid(
      ['name', 'subnet', 'gateway', 'interface', 'healthy', 'leases', 'vms', 'message'],
      all.map((n) => [
        n.name,
        n.subnet ?? '',
        n.gateway ?? '',
        n.interface ?? '',
        n.healthy ? 'yes' : 'no',
        n.leases === null ? '' : `${n.leases} of ${n.pool_size}`,
        n.vms.join(', '),
        n.message,
      ]),
    ),
  );
}

export async function resetNetworks(s: Session): Promise<void> {
  const body = await (await s.daemon()).post<{ removed: string[] }>('/v1/networks/reset');
  s.out.done(body, body.removed.length === 0 ? 'nothing to remove' : body.removed.map((r) => `removed ${r}`).join('\n'));
}
