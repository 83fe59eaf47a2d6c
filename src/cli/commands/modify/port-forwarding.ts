/** `anka modify VM … port-forwarding`, and its 3.x syntax `anka modify VM port`. */
import type { RuleRequest, VmDescribe } from '../../../api/types.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { choice, integer } from '../../arguments.ts';
import { type Session, vmPath } from '../../session.ts';

export interface RuleOptions {
  guestPort?: string;
  hostPort?: string;
  hostIp?: string;
  protocol?: string;
}

export async function addRule(s: Session, ref: string, name: string, o: RuleOptions): Promise<void> {
  if (o.guestPort === undefined) throw new AnkaError('usage', "Missing option '-g' / '--guest-port'.");
  const request: RuleRequest = {
    name,
    guest_port: integer('-g', o.guestPort, { low: 1, high: 65_535 }),
    ...(o.hostPort === undefined ? {} : { host_port: integer('-p', o.hostPort, { low: 0, high: 65_535 }) }),
    ...(o.hostIp === undefined ? {} : { host_ip: o.hostIp }),
    ...(o.protocol === undefined ? {} : { protocol: choice('--protocol', o.protocol, ['tcp', 'udp'] as const) }),
  };
  await (await s.daemon()).post(vmPath(ref, '/port-forwarding'), request);
  s.out.done({}, 'rule added successfully');
}

/** Deletes these rules, or all. */
export async function deleteRules(s: Session, ref: string, names: readonly string[], all: boolean): Promise<void> {
  if (!all && names.length === 0) throw new AnkaError('usage', "Missing argument 'NAME'.");
  const daemon = await s.daemon();
  const rules = all
    ? (await daemon.get<VmDescribe>(vmPath(ref, '/config'))).network_cards.flatMap((c) => c.port_forwarding_rules.map((r) => r.rule_name))
    : names;
  for (const name of rules) await daemon.delete(vmPath(ref, `/port-forwarding/${encodeURIComponent(name)}`));
  s.out.done({}, rules.length === 1 ? 'rule deleted successfully' : `${rules.length} rules deleted successfully`);
}

/** `anka modify VM port`: the ports as `guest[:host-ip][:host-port]`, IPv6 in brackets, or as options (B31). */
export interface PortCommand extends RuleOptions {
  name: string;
  ports?: string;
  delete?: boolean;
  /** The rule's new name. */
  setName?: string;
  reverse?: boolean;
}

async function renameRule(s: Session, ref: string, name: string, newName: string): Promise<void> {
  await (await s.daemon()).patch(vmPath(ref, `/port-forwarding/${encodeURIComponent(name)}`), { name: newName });
  s.out.done({}, 'rule renamed successfully');
}

export async function port(s: Session, ref: string, o: PortCommand): Promise<void> {
  if (o.reverse) throw new AnkaError('unsupported', 'rules forward from the host to the guest only; the guest reaches the host at host.anka.internal');
  if (o.delete) return deleteRules(s, ref, [o.name], false);
  if (o.setName !== undefined) return renameRule(s, ref, o.name, o.setName);
  if (o.ports === undefined) return addRule(s, ref, o.name, o);
  if (o.guestPort !== undefined) throw new AnkaError('usage', "Specify the ports as 'guest[:host-ip][:host-port]' or with '-g', not both.");
  const m = /^(-?\d+)(?::(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:.]+\]))?(?::(-?\d+))?$/.exec(o.ports);
  if (!m) throw new AnkaError('usage', `Invalid value for 'PORTS': '${o.ports}' does not have the form guest[:host-ip][:host-port].`);
  return addRule(s, ref, o.name, {
    ...o,
    guestPort: m[1] as string,
    ...(m[2] === undefined ? {} : { hostIp: m[2].replace(/[[\]]/g, '') }),
    ...(m[3] === undefined ? {} : { hostPort: m[3] }),
  });
}
