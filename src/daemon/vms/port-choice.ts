/** Host ports of rules, against other rules and other programs (B62, B64). */
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';
import { run } from '../../host/exec.ts';
import { AnkaError } from '../../lib/errors.ts';
import { candidatePorts, type PortUse, portsConflict } from '../../net/forward-ports.ts';
import type { RuleRow } from '../../store/rules.ts';
import { formatIpv4 } from '../../wire/address.ts';
import type { Context } from '../context.ts';

/** Whether a program other than ours holds the port: by trying to take it. */
export function portIsFree(use: PortUse): Promise<boolean> {
  const host = formatIpv4(use.hostIp);
  return new Promise((resolve, reject) => {
    const done = (error: NodeJS.ErrnoException | null, close: () => void): void => {
      if (!error) close();
      else if (error.code === 'EADDRINUSE') resolve(false);
      else if (error.code === 'EADDRNOTAVAIL') reject(new AnkaError('badValue', `this host has no address ${host}; 'ip addr' lists those it has`));
      else if (error.code === 'EACCES') reject(new AnkaError('noRights', `port ${use.hostPort} needs root; choose one from 1024 up`));
      else reject(error);
    };
    if (use.protocol === 'tcp') {
      const s = createServer();
      s.once('error', (e) => done(e, () => {}));
      s.listen({ host, port: use.hostPort, exclusive: true }, () => done(null, () => s.close(() => resolve(true))));
    } else {
      const s = createSocket('udp4');
      s.once('error', (e) => done(e as NodeJS.ErrnoException, () => {}));
      s.bind({ address: host, port: use.hostPort, exclusive: true }, () => done(null, () => s.close(() => resolve(true))));
    }
  });
}

/** The program that holds a port, as `ss` tells: "nginx (pid 123)"; else "another program". */
async function holder(use: PortUse): Promise<string> {
  const text = await run('ss', ['-H', '-n', '-p', '-l', use.protocol === 'tcp' ? '-t' : '-u', 'sport', '=', `:${use.hostPort}`]).catch(() => '');
  const m = /users:\(\("([^"]+)",pid=(\d+)/.exec(text);
  return m ? `${m[1]} (pid ${m[2]})` : 'another program';
}

function others(ctx: Context, rule: { vm: string; name: string }): RuleRow[] {
  return ctx.rules.all().filter((r) => r.hostPort !== 0 && !(r.vm === rule.vm && r.name === rule.name));
}

/** The lowest port that is free for this rule. Throws `poolExhausted`. */
export async function choosePort(ctx: Context, rule: Omit<RuleRow, 'hostPort'>, base: number): Promise<number> {
  for (const hostPort of candidatePorts(base, rule, others(ctx, rule))) {
    if (await portIsFree({ ...rule, hostPort })) return hostPort;
  }
  throw new AnkaError('poolExhausted', `no ${rule.protocol} port from ${base} up is free; delete a rule, or lower portfwd_base`);
}

/** Throws `portTaken`, naming the rule or program that holds the port. */
export async function demandPort(ctx: Context, rule: RuleRow): Promise<void> {
  const other = others(ctx, rule).find((o) => portsConflict(o, rule));
  if (other)
    throw new AnkaError(
      'portTaken',
      `${rule.protocol} port ${rule.hostPort} is held by rule '${other.name}' of VM ${ctx.vms.find(other.vm)?.name ?? other.vm}; choose another, or leave -p out`,
    );
  if (!(await portIsFree(rule)))
    throw new AnkaError('portTaken', `${rule.protocol} port ${rule.hostPort} is held by ${await holder(rule)}; choose another, or leave -p out`);
}
