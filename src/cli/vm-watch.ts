/**
 * Watches a VM for a command that is connected to its guest: a peer that has vanished or moved sends nothing.
 *
 * Theory of operation: the daemon's events report the end of the VM, and of its attachment to its network. The state of
 * the beginning is kept and compared after a restart of the daemon. VM and connection do not depend on the daemon:
 * while none runs, only the VM's process is looked at.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DaemonEvent, GuestAccess, VmShow } from '../api/types.ts';
import { isAlive } from '../host/process.ts';
import { AnkaError } from '../lib/errors.ts';
import { type Session, vmPath } from './session.ts';

/** Pause before the daemon is asked again, ms. */
const RETRY_MS = 500;
const DELETED = 'the VM was deleted';

export class VmWatch {
  /** How the guest is reached, as of the beginning. */
  readonly access: GuestAccess;
  /** Why the connection is over. Never resolves after `close`. */
  readonly ended: Promise<string>;
  readonly #session: Session;
  /** What the card was attached to at the beginning, as a clause; null if that does not matter. */
  readonly #network: string | null;
  readonly #closed: AbortController;

  private constructor(s: Session, access: GuestAccess, network: string | null, follow: { events: AsyncGenerator<DaemonEvent>; closed: AbortController }) {
    this.#session = s;
    this.access = access;
    this.#network = network;
    this.#closed = follow.closed;
    this.ended = this.#follow(follow.events);
  }

  /** `by`: whether the connection is one of the guest's network, or one to its machine. */
  static async begin(s: Session, ref: string, by: 'network' | 'machine' = 'network'): Promise<VmWatch> {
    const daemon = await s.daemon();
    const closed = new AbortController();
    try {
      // before the state is asked for, so that no change is missed
      const events = await daemon.events(closed.signal);
      const show = await daemon.get<VmShow>(vmPath(ref));
      const access = await daemon.get<GuestAccess>(vmPath(show.uuid, '/guest'));
      return new VmWatch(s, access, by === 'network' ? networkOf(show) : null, { events, closed });
    } catch (cause) {
      closed.abort();
      throw cause;
    }
  }

  /** Why the connection is over, as the daemon knows it now; null if it is not, or no daemon answers. */
  async check(): Promise<string | null> {
    try {
      const daemon = await this.#session.daemon({ autostart: false });
      return await this.#compare(daemon);
    } catch {
      return null;
    }
  }

  close(): void {
    this.#closed.abort();
  }

  async #follow(first: AsyncGenerator<DaemonEvent>): Promise<string> {
    let events: AsyncGenerator<DaemonEvent> | null = first;
    while (!this.#closed.signal.aborted) {
      try {
        for await (const e of events ?? []) {
          const why = this.#endBy(e);
          if (why !== null) return why;
        }
        const daemon = await this.#session.daemon({ autostart: false });
        events = await daemon.events(this.#closed.signal);
        const why = await this.#compare(daemon);
        if (why !== null) return why;
      } catch {
        events = null; // no daemon at the moment
        if (this.access.pid !== undefined && !isAlive(this.access.pid)) return 'the QEMU process of the VM has exited';
        await sleep(RETRY_MS, undefined, { signal: this.#closed.signal }).catch(() => {});
      }
    }
    return new Promise(() => {});
  }

  async #compare(daemon: Awaited<ReturnType<Session['daemon']>>): Promise<string | null> {
    try {
      const show = await daemon.get<VmShow>(vmPath(this.access.uuid), { signal: this.#closed.signal });
      if (show.status !== 'running') return endOf(show.status);
      return this.#network === null || networkOf(show) === this.#network ? null : `the VM ${networkOf(show)}`;
    } catch (cause) {
      if (cause instanceof AnkaError && cause.kind === 'vmNotFound') return DELETED;
      throw cause;
    }
  }

  #endBy({ type, message, vm }: DaemonEvent): string | null {
    if (vm?.uuid !== this.access.uuid) return null;
    if (type === 'vm.deleted') return DELETED;
    if (type === 'vm.network' && this.#network !== null) return `the VM ${message}`;
    return type === 'vm.status' && message !== 'running' ? endOf(message) : null;
  }
}

/** As a sentence: the status of a VM, or the message of an event of type `vm.status`. */
function endOf(status: string): string {
  if (status === 'stopped' || status === 'suspended') return `the VM is ${status}`;
  return status.startsWith('failed') ? `the VM has ${status}` : `the VM was ${status}`;
}

/** What the card is attached to, in the words of the event `vm.network`. */
function networkOf({ network }: VmShow): string {
  if (!network) return 'has no network card';
  return network.type === 'disconnected' ? 'is disconnected' : `is on ${[network.type, network.bridge].filter((n) => n).join(' ')} now`;
}
