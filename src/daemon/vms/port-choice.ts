/** Host ports of rules: free or in use by other rules and programs (B62, B64). */
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';
import { run } from '../../host/exec.ts';
import { AnkaError } from '../../lib/errors.ts';
import { candidatePorts, type PortUse, portsConflict } from '../../net/forward-ports.ts';
import { ANY_ADDRESS6 } from '../../net/policy/forwarding.ts';
import type { RuleRow } from '../../store/rules.ts';
import { formatIp } from '../../wire/ip-address.ts';
import type { Context } from '../context.ts';

/** Whether the port can be opened, found by opening it. */
export function portIsFree(use: PortUse): Promise<boolean> {
  const host = formatIp(use.hostIp);
  const isIpv6 = typeof use.hostIp === 'string';
  return new Promise((resolve, reject) => {
    const done = (error: NodeJS.ErrnoException | null, close: () => void): void => {
      if (!error) close();
      else if (error.code === 'EADDRINUSE') resolve(false);
      else if (error.code === 'EAFNOSUPPORT' || (error.code === 'EADDRNOTAVAIL' && use.hostIp === ANY_ADDRESS6))
        reject(new AnkaError('badValue', `this host has no IPv6, which ${host} requires; omit -l to listen on every IPv4 address`));
      else if (error.code === 'EADDRNOTAVAIL') reject(new AnkaError('badValue', `this host has no address ${host}; run 'ip addr' to list its addresses`));
      else if (error.code === 'EACCES') reject(new AnkaError('noRights', `port ${use.hostPort} requires root; choose a port from 1024 up`));
      else reject(error);
    };
    if (use.protocol === 'tcp') {
      const s = createServer();
      s.once('error', (e) => done(e, () => {}));
      s.listen({ host, port: use.hostPort, ipv6Only: true, exclusive: true }, () => done(null, () => s.close(() => resolve(true))));
    } else {
      const s = createSocket({ type: isIpv6 ? 'udp6' : 'udp4', ipv6Only: isIpv6 });
      s.once('error', (e) => done(e as NodeJS.ErrnoException, () => {}));
      s.bind({ address: host, port: use.hostPort, exclusive: true }, () => done(null, () => s.close(() => resolve(true))));
    }
  });
}

/** The program that uses a port, from `ss`: "nginx (pid 123)", or "another program". */
async function portUser(use: PortUse): Promise<string> {
  const text = await run('ss', ['-H', '-n', '-p', '-l', use.protocol === 'tcp' ? '-t' : '-u', 'sport', '=', `:${use.hostPort}`]).catch(() => '');
  const m = /users:\(\("([^"]+)",pid=(\d+)/.exec(text);
  return m ? `${m[1]} (pid ${m[2]})` : 'another program';
}

function otherRules(ctx: Context, rule: { vm: string; name: string }): RuleRow[] {
  return ctx.rules.all().filter((r) => r.hostPort !== 0 && !(r.vm === rule.vm && r.name === rule.name));
}

/** The lowest port that is free for this rule. Throws `poolExhausted`. */
export async function choosePort(ctx: Context, rule: Omit<RuleRow, 'hostPort'>, base: number): Promise<number> {
  for (const hostPort of candidatePorts(base, rule, otherRules(ctx, rule))) {
    if (await portIsFree({ ...rule, hostPort })) return hostPort;
  }
  throw new AnkaError('poolExhausted', `no ${rule.protocol} port from ${base} up is free; delete a rule, or lower the setting portfwd_base`);
}

/** Throws `portTaken` with the rule or program that uses the port. */
export async function demandPort(ctx: Context, rule: RuleRow): Promise<void> {
  const other = otherRules(ctx, rule).find((o) => portsConflict(o, rule));
  if (other)
    throw new AnkaError(
      'portTaken',
      `${rule.protocol} port ${rule.hostPort} is in use by rule '${other.name}' of VM ${ctx.vms.find(other.vm)?.name ?? other.vm}; choose another, or omit -p`,
    );
  if (!(await portIsFree(rule)))
    throw new AnkaError('portTaken', `${rule.protocol} port ${rule.hostPort} is in use by ${await portUser(rule)}; choose another, or omit -p`);
}
