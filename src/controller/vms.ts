/**
 * The VMs of this host as the controller needs them: calls of the daemon's API. The daemon is started when it does not
 * run. Every call may be repeated.
 */
import { type Client, connect } from '../api/client.ts';
import type { ModifyRequest, RuleRequest, ShownTag, VmListEntry, VmShow } from '../api/types.ts';
import type { Paths } from '../host/paths.ts';
import { AnkaError } from '../lib/errors.ts';

/** Calls to the daemon at the same time. */
const AT_ONCE = 8;

const path = (ref: string, rest = ''): string => `/v1/vms/${encodeURIComponent(ref)}${rest}`;
const isMissing = (cause: unknown): boolean => cause instanceof AnkaError && cause.kind === 'vmNotFound';

export class Vms {
  readonly #paths: Paths;

  constructor(paths: Paths) {
    this.#paths = paths;
  }

  async list(): Promise<VmListEntry[]> {
    return (await this.#daemon()).get('/v1/vms');
  }

  /** By name or UUID; null if there is none. */
  async show(ref: string): Promise<VmShow | null> {
    try {
      return await (await this.#daemon()).get<VmShow>(path(ref));
    } catch (cause) {
      if (isMissing(cause)) return null;
      throw cause;
    }
  }

  /** Those of these VMs that exist, by UUID. */
  async showAll(uuids: readonly string[]): Promise<Map<string, VmShow>> {
    const found = new Map<string, VmShow>();
    const left = [...uuids];
    const next = async (): Promise<void> => {
      for (let uuid = left.shift(); uuid !== undefined; uuid = left.shift()) {
        const vm = await this.show(uuid);
        if (vm) found.set(uuid, vm);
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, left.length) }, next));
    return found;
  }

  /** The local tags of a VM. */
  async tags(uuid: string): Promise<ShownTag[]> {
    return (await this.#daemon()).get<ShownTag[]>(path(uuid, '/tags'));
  }

  /** Clones a local tag of the template; null: its present state. Returns the clone's UUID. */
  async clone(template: string, name: string, tag: string | null): Promise<string> {
    return (await (await this.#daemon()).post<{ uuid: string }>(path(template, '/clone'), { name, ...(tag === null ? {} : { tag }) })).uuid;
  }

  async modify(uuid: string, change: ModifyRequest): Promise<void> {
    await (await this.#daemon()).patch(path(uuid), change);
  }

  /** Waits for the operations of a VM so far, such as a clone for a controller that was killed. */
  async settled(uuid: string): Promise<void> {
    await this.#ifThere(async (daemon) => daemon.patch(path(uuid), {}));
  }

  async forward(uuid: string, rule: RuleRequest): Promise<void> {
    await (await this.#daemon()).post(path(uuid, '/port-forwarding'), rule);
  }

  async start(uuid: string): Promise<void> {
    await (await this.#daemon()).post(path(uuid, '/start'));
  }

  /** Powers it off at once. No error if it does not exist. */
  async stop(uuid: string): Promise<void> {
    await this.#ifThere(async (daemon) => daemon.post(path(uuid, '/stop'), { force: true }));
  }

  /** No error if it does not exist. */
  async remove(uuid: string): Promise<void> {
    await this.#ifThere(async (daemon) => daemon.delete(path(uuid)));
  }

  async #ifThere(call: (daemon: Client) => Promise<unknown>): Promise<void> {
    try {
      await call(await this.#daemon());
    } catch (cause) {
      if (!isMissing(cause)) throw cause;
    }
  }

  #daemon(): Promise<Client> {
    return connect(this.#paths);
  }
}
