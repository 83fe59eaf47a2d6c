/** `anka modify VM … network-card`: reads the options and sends one request; the daemon carries it out. */
import type { NetworkCardRequest } from '../../../api/types.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { choice, integer } from '../../arguments.ts';
import { type Session, vmPath } from '../../session.ts';
import { readFilter } from '../filter-file.ts';
import { unchanged } from './properties.ts';

export interface CardOptions {
  type?: string;
  mode?: string;
  bridge?: string;
  /** `false` = `--no-mac`. */
  mac?: string | false;
  controller?: string;
  /** `true` = `--no-local`. */
  isolated?: boolean;
  ip?: string;
  guestIp?: string;
  vlan?: string;
  /** A file, `-` or `off`. */
  filter?: string;
}

/** Only card 0 exists (B30). */
function checkIndex(index: string | undefined): void {
  if (index !== undefined && index !== '0') throw new AnkaError('usage', `Invalid value for 'INDEX': '${index}'; a VM has only one network card, index 0.`);
}

/** Checks the options and makes the request of them. */
export async function cardRequest(o: CardOptions): Promise<NetworkCardRequest> {
  const given = o.type ?? o.mode;
  const type = given === 'nat' ? 'shared' : given;
  const ip = o.ip ?? o.guestIp;
  const vlan = o.vlan === undefined ? undefined : o.vlan === 'none' || o.vlan === '0' ? null : integer('-v', o.vlan, { low: 1, high: 4094 });
  return {
    ...(type === undefined ? {} : { type: choice('-t', type, ['shared', 'host', 'bridge', 'bridged', 'disconnected'] as const) }),
    ...(o.bridge === undefined ? {} : { bridge: o.bridge === 'auto' ? '' : o.bridge }),
    ...(o.mac === undefined ? {} : { mac: o.mac === false || o.mac === 'auto' ? null : o.mac }),
    ...(o.controller === undefined ? {} : { controller: choice('-c', o.controller, ['virtio-net', 'e1000', 'anet'] as const) }),
    ...(o.isolated === undefined ? {} : { isolated: o.isolated }),
    ...(ip === undefined ? {} : { ip }),
    ...(vlan === undefined ? {} : { vlan }),
    ...(o.filter === undefined ? {} : { filter: await readFilter(o.filter) }),
  };
}

export async function setCard(s: Session, ref: string, index: string | undefined, o: CardOptions): Promise<void> {
  checkIndex(index);
  const request = await cardRequest(o);
  if (Object.keys(request).length === 0 && s.out.hasRemarks) return unchanged(s, ref);
  if (Object.keys(request).length === 0) throw new AnkaError('usage', "Nothing to set: use at least one option, such as '-t host'.");
  const body = await (await s.daemon()).put<{ message: string }>(vmPath(ref, '/network-card'), request, s.out.reporting());
  s.out.done({}, body.message);
}

export async function addCard(s: Session, ref: string, index: string | undefined, o: CardOptions): Promise<void> {
  checkIndex(index);
  const body = await (await s.daemon()).post<{ message: string }>(vmPath(ref, '/network-card'), await cardRequest(o), s.out.reporting());
  s.out.done({}, `network card added successfully${body.message ? `; ${body.message}` : ''}`);
}

export async function deleteCard(s: Session, ref: string, index: string | undefined): Promise<void> {
  checkIndex(index);
  await (await s.daemon()).delete(vmPath(ref, '/network-card'));
  s.out.done({}, 'network card deleted successfully');
}
