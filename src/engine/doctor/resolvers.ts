/**
 * What `doctor` says of the resolvers that guests' names are asked of (B93), the same on both engines: whether there
 * are any, whether they answer, and whether those who ask for the guests ask the right ones. Looks only, changes
 * nothing.
 *
 * A process that outlives the daemon may see another /etc/resolv.conf than the daemon does: where the file is mounted
 * by itself, as in containers, a new one in its place is not seen by who was started before.
 */
import { asksResolver, readResolvers } from '../../host/resolvers.ts';
import { formatIpv4, gatewayOf } from '../../wire/address.ts';
import type { DesiredState, DoctorFinding } from '../engine.ts';

/** A process of ours that asks for guests, and whom it asks. */
export interface Asker {
  title: string;
  pid: number;
  servers: readonly string[];
}

export async function resolverFindings(desired: DesiredState, askers: readonly Asker[]): Promise<DoctorFinding[]> {
  const configured = desired.dnsServers.length > 0;
  const servers = configured ? desired.dnsServers : readResolvers(desired.networks.map((n) => formatIpv4(gatewayOf(n.subnet))));
  const where = configured ? 'the setting dns_servers' : '/etc/resolv.conf';
  return [...outdated(servers, where, askers), ...(await silent(servers, where))];
}

function outdated(servers: readonly string[], where: string, askers: readonly Asker[]): DoctorFinding[] {
  const named = [...servers].sort().join(', ');
  return askers
    .filter((a) => [...a.servers].sort().join(', ') !== named)
    .map((a) => ({
      id: 'resolver.outdated',
      level: 'error',
      message: `${a.title} asks ${a.servers.join(', ') || 'nobody'} for names, but ${where} names ${servers.join(', ') || 'nobody'}`,
      remedy: `'kill ${a.pid}': it is started again by itself, with what is named now`,
    }));
}

/** Each server is asked for the root's name servers, which every resolver knows. */
async function silent(servers: readonly string[], where: string): Promise<DoctorFinding[]> {
  if (servers.length === 0)
    return [
      {
        id: 'resolver.none',
        level: 'warning',
        message: '/etc/resolv.conf names no server: guests cannot resolve outside names',
        remedy: "name one there, or 'anka config dns_servers ADDRESS'",
      },
    ];
  const answers = await Promise.all(servers.map((server) => asksResolver(server)));
  const dumb = servers.filter((_s, i) => !answers[i]);
  if (dumb.length === 0) return [{ id: 'resolver', level: 'ok', message: `names are asked of ${servers.join(', ')}`, remedy: '' }];
  const all = dumb.length === servers.length;
  return dumb.map((server) => ({
    id: 'resolver.stale',
    // one that answers is enough, if late
    level: all ? 'error' : 'warning',
    message: `the resolver ${server} of ${where} does not answer: guests wait for names${all ? ', and get none' : ''}`,
    remedy: /^127\./.test(server)
      ? "start the resolver of this host ('systemctl restart systemd-resolved'), or 'anka config dns_servers ADDRESS'"
      : `take it out of ${where}, or 'anka config dns_servers ADDRESS' with one that answers`,
  }));
}
