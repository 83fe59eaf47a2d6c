/**
 * Spanning tree on a bridge of the host's own: a new port passes no frame while it listens and learns (IEEE 802.1D,
 * 17.20), by default for 30 s.
 */
import type { Link } from '../../../host/links.ts';
import type { DesiredNic, DesiredState, DoctorFinding } from '../../engine.ts';
import { isOurs } from '../link-plan.ts';
import { tapName } from '../names.ts';

/** A port that does not forward yet, or not at all. */
export interface WaitingPort {
  bridge: string;
  /** `listening`, `learning` or `blocking`. */
  state: string;
  /** Seconds until it forwards; null where spanning tree keeps it closed. */
  seconds: number | null;
}

/** Wait at a bridge that is not worth a finding, ms. */
const SHORT_MS = 4000;
/** The shortest forward delay that Linux accepts, 1/100 s. */
const SHORTEST = 200;

/** Null: it forwards, or has no carrier, or is on no bridge of the host. */
export function waitingPort(nic: DesiredNic, links: readonly Link[]): WaitingPort | null {
  const tap = links.find((l) => l.name === tapName(nic.id));
  const bridge = links.find((l) => l.name === tap?.master);
  if (!tap?.port || !bridge?.spanningTree || isOurs(bridge)) return null;
  const { state, timer } = tap.port;
  if (state === 'blocking') return { bridge: bridge.name, state, seconds: null };
  if (state !== 'listening' && state !== 'learning') return null;
  const ms = timer + (state === 'listening' ? bridge.spanningTree.forwardDelay : 0);
  return { bridge: bridge.name, state, seconds: Math.ceil(ms / 1000) };
}

/** The state of a port in one sentence. */
export function waitText({ bridge, state, seconds }: WaitingPort): string {
  const until = seconds === null ? 'spanning tree keeps it closed' : `spanning tree lets frames pass in ${seconds} s`;
  return `its port of ${bridge} is ${state}: ${until}`;
}

/** Bridges of the host's own, with their VMs. */
export function hostBridges({ nics }: DesiredState, links: readonly Link[]): Map<Link, DesiredNic[]> {
  const byBridge = new Map<Link, DesiredNic[]>();
  for (const nic of nics) {
    const master = links.find((l) => l.name === tapName(nic.id))?.master;
    const bridge = links.find((l) => l.name === master);
    if (nic.type === 'bridge' && bridge?.spanningTree && !isOurs(bridge)) byBridge.set(bridge, [...(byBridge.get(bridge) ?? []), nic]);
  }
  return byBridge;
}

/** Bridges on which VMs wait for their network. */
export function spanningTreeFindings(desired: DesiredState, links: readonly Link[]): DoctorFinding[] {
  return [...hostBridges(desired, links)].flatMap(([bridge, cards]) => finding(bridge, cards, links));
}

function finding({ name, spanningTree }: Link, nics: readonly DesiredNic[], links: readonly Link[]): DoctorFinding[] {
  const waiting = nics.flatMap((nic) => {
    const port = waitingPort(nic, links);
    return port ? [`${nic.vmName}: ${port.state}${port.seconds === null ? '' : `, ${port.seconds} s left`}`] : [];
  });
  const delay = 2 * (spanningTree?.forwardDelay ?? 0);
  if (waiting.length === 0 && (!spanningTree?.on || delay <= SHORT_MS)) return [];
  const now = waiting.length === 0 ? '' : ` (${waiting.join('; ')})`;
  return [
    {
      id: 'bridge.stp',
      level: 'warning',
      message: `${name} uses spanning tree: a VM has no network for ${delay / 1000} s after it is attached${now}`,
      remedy: `if ${name} is in no loop, run 'ip link set ${name} type bridge stp_state 0'; else shorten the wait by 'ip link set ${name} type bridge forward_delay ${SHORTEST}'`,
    },
  ];
}
