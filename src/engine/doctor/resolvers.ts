/**
 * `anka doctor` on the resolvers that guests' DNS queries are forwarded to (B93), for both engines. It checks that
 * there are some, that they answer, and that every forwarder uses the current ones. Read-only.
 */
import { resolverAnswers } from '../../host/resolvers.ts';
import type { DesiredState, DoctorFinding } from '../engine.ts';
import { upstreamResolvers } from '../upstream-resolvers.ts';

/** A process that forwards guests' DNS queries, and the servers that it uses. */
export interface DnsForwarderProcess {
  title: string;
  servers: readonly string[];
}

export async function resolverFindings(desired: DesiredState, forwarders: readonly DnsForwarderProcess[]): Promise<DoctorFinding[]> {
  const configured = desired.dnsServers.length > 0;
  const servers = upstreamResolvers(
    desired.dnsServers,
    desired.networks.map((n) => n.subnet),
  );
  const where = configured ? 'the setting dns_servers' : '/etc/resolv.conf';
  return [...outdated(servers, where, forwarders), ...(await silent(servers, where))];
}

function outdated(servers: readonly string[], where: string, forwarders: readonly DnsForwarderProcess[]): DoctorFinding[] {
  const named = [...servers].sort().join(', ');
  return forwarders
    .filter((f) => [...f.servers].sort().join(', ') !== named)
    .map((f) => ({
      id: 'resolver.outdated',
      level: 'warning',
      message: `${f.title} still forwards DNS queries to ${f.servers.join(', ') || 'no server'}, but ${where} lists ${servers.join(', ') || 'none'}`,
      remedy: 'wait: it follows within a few seconds',
    }));
}

/** Queries each server for the NS records of the root, which every resolver knows. */
async function silent(servers: readonly string[], where: string): Promise<DoctorFinding[]> {
  if (servers.length === 0)
    return [
      {
        id: 'resolver.none',
        level: 'warning',
        message: '/etc/resolv.conf lists no server: guests cannot resolve outside names',
        remedy: "add one there, or run 'anka config dns_servers ADDRESS'",
      },
    ];
  const answers = await Promise.all(servers.map((server) => resolverAnswers(server)));
  const dumb = servers.filter((_s, i) => !answers[i]);
  if (dumb.length === 0) return [{ id: 'resolver', level: 'ok', message: `DNS queries are forwarded to ${servers.join(', ')}`, remedy: '' }];
  const all = dumb.length === servers.length;
  return dumb.map((server) => ({
    id: 'resolver.stale',
    // with one that answers, guests resolve names, only later
    level: all ? 'error' : 'warning',
    message: `resolver ${server} from ${where} does not answer: guests ${all ? 'cannot resolve outside names' : 'resolve names slowly'}`,
    remedy: /^127\./.test(server)
      ? "start this host's resolver ('systemctl restart systemd-resolved'), or run 'anka config dns_servers ADDRESS'"
      : `remove it from ${where}, or run 'anka config dns_servers ADDRESS' with one that answers`,
  }));
}
