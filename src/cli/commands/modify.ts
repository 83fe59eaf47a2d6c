/** Commands that change a VM: `anka modify VM …`. */
import type { ModifyRequest, NetworkCardRequest, RuleRequest } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { type Session, vmPath } from '../session.ts';

export interface CardOptions {
  type?: string;
  mode?: string;
  bridge?: string;
  /** `false` = `--no-mac`. */
  mac?: string | false;
  controller?: string;
  isolated?: boolean;
  ip?: string;
  vlan?: string;
}

/** Only card 0 exists (B30). */
function checkIndex(index: string | undefined): void {
  if (index !== undefined && index !== '0') throw new AnkaError('usage', `Invalid value for 'INDEX': '${index}'; a VM has only one network card, index 0.`);
}

function choice<T extends string>(option: string, value: string, values: readonly T[]): T {
  if (!values.includes(value as T))
    throw new AnkaError('usage', `Invalid value for '${option}': '${value}' is not one of ${values.map((v) => `'${v}'`).join(', ')}.`);
  return value as T;
}

function cardRequest(o: CardOptions): NetworkCardRequest {
  const type = o.type ?? o.mode;
  const vlan = o.vlan === undefined ? undefined : o.vlan === 'none' ? null : integer('-v', o.vlan, 1, 4094);
  return {
    ...(type === undefined ? {} : { type: choice('-t', type, ['shared', 'host', 'bridge', 'bridged', 'disconnected'] as const) }),
    ...(o.bridge === undefined ? {} : { bridge: o.bridge }),
    ...(o.mac === undefined ? {} : { mac: o.mac === false ? null : o.mac }),
    ...(o.controller === undefined ? {} : { controller: choice('-c', o.controller, ['virtio-net', 'e1000', 'anet'] as const) }),
    ...(o.isolated === undefined ? {} : { isolated: o.isolated }),
    ...(o.ip === undefined ? {} : { ip: o.ip }),
    ...(vlan === undefined ? {} : { vlan }),
  };
}

export function integer(option: string, text: string, low: number, high: number): number {
  if (!/^-?\d{1,9}$/.test(text)) throw new AnkaError('usage', `Invalid value for '${option}': '${text}' is not a valid integer.`);
  const n = Number(text);
  if (n < low || n > high) throw new AnkaError('usage', `Invalid value for '${option}': ${text} is not in the range ${low}<=x<=${high}.`);
  return n;
}

export async function setCard(s: Session, ref: string, index: string | undefined, o: CardOptions): Promise<void> {
  checkIndex(index);
  const request = cardRequest(o);
  if (Object.keys(request).length === 0) throw new AnkaError('usage', "Nothing to set: give at least one option, such as '-t host'.");
  const body = await (await s.daemon()).put<{ message: string }>(vmPath(ref, '/network-card'), request, {
    onProgress: (p) => s.out.progress(p.step, p.fraction),
  });
  s.out.done({}, body.message);
}

export async function addCard(s: Session, ref: string, index: string | undefined, o: CardOptions): Promise<void> {
  checkIndex(index);
  const body = await (await s.daemon()).post<{ message: string }>(vmPath(ref, '/network-card'), cardRequest(o), {
    onProgress: (p) => s.out.progress(p.step, p.fraction),
  });
  s.out.done({}, `network card added successfully${body.message ? `; ${body.message}` : ''}`);
}

export async function deleteCard(s: Session, ref: string, index: string | undefined): Promise<void> {
  checkIndex(index);
  await (await s.daemon()).delete(vmPath(ref, '/network-card'));
  s.out.done({}, 'network card deleted successfully');
}

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
    guest_port: integer('-g', o.guestPort, 1, 65_535),
    ...(o.hostPort === undefined ? {} : { host_port: integer('-p', o.hostPort, 0, 65_535) }),
    ...(o.hostIp === undefined ? {} : { host_ip: o.hostIp }),
    ...(o.protocol === undefined ? {} : { protocol: choice('--protocol', o.protocol, ['tcp', 'udp'] as const) }),
  };
  await (await s.daemon()).post(vmPath(ref, '/port-forwarding'), request);
  s.out.done({}, 'rule added successfully');
}

export async function deleteRule(s: Session, ref: string, name: string): Promise<void> {
  await (await s.daemon()).delete(vmPath(ref, `/port-forwarding/${encodeURIComponent(name)}`));
  s.out.done({}, 'rule deleted successfully');
}

/** The 3.x spelling: NAME, and `guest[:host-ip][:host-port]` or options (B31). */
export async function port(s: Session, ref: string, name: string, spec: string | undefined, o: RuleOptions & { delete?: boolean }): Promise<void> {
  if (o.delete) return deleteRule(s, ref, name);
  if (spec === undefined) return addRule(s, ref, name, o);
  if (o.guestPort !== undefined) throw new AnkaError('usage', "Give the ports as 'guest[:host-ip][:host-port]' or by options, not both.");
  const m = /^(-?\d+)(?::(\d+\.\d+\.\d+\.\d+))?(?::(-?\d+))?$/.exec(spec);
  if (!m) throw new AnkaError('usage', `Invalid value for 'PORTS': '${spec}' is not of the form guest[:host-ip][:host-port].`);
  return addRule(s, ref, name, {
    ...o,
    guestPort: m[1] as string,
    ...(m[2] === undefined ? {} : { hostIp: m[2] }),
    ...(m[3] === undefined ? {} : { hostPort: m[3] }),
  });
}

export async function setValues(s: Session, ref: string, request: ModifyRequest): Promise<void> {
  await (await s.daemon()).patch(vmPath(ref), request);
  s.out.done({});
}
