/** VMs by name, and their operations in order: one at a time per VM, those of different VMs concurrently. */
import { AnkaError } from '../../lib/errors.ts';
import type { VmRow, VmStore } from '../../store/vms.ts';

export class VmQueue {
  #vms: VmStore;
  /** The last operation of each VM, by UUID; absent while the VM is idle. */
  #last = new Map<string, Promise<unknown>>();

  constructor(vms: VmStore) {
    this.#vms = vms;
  }

  /**
   * A VM that is completely created, by name or UUID. Throws `vmNotFound` with the words that existing clients expect.
   */
  find(ref: string): VmRow {
    const vm = this.#vms.find(ref);
    if (!vm || vm.phase !== 'ready') throw new AnkaError('vmNotFound', `${ref}: not found`);
    return vm;
  }

  /** Resolves when a VM's operations so far have ended; `stop` ends them if they take longer than `limitMs`. */
  async drain(ref: string, limitMs: number, stop: (vm: VmRow) => Promise<void>): Promise<void> {
    const vm = this.find(ref);
    const last = this.#last.get(vm.uuid);
    if (!last) return;
    const timer = setTimeout(() => void stop(vm), limitMs);
    await last;
    clearTimeout(timer);
  }

  /** Runs `work` on a VM after all its earlier operations, with the row as it is then. */
  async exclusive<T>(ref: string, work: (vm: VmRow) => Promise<T>): Promise<T> {
    const { uuid } = this.find(ref);
    const before = this.#last.get(uuid) ?? Promise.resolve();
    const result = before.then(() => work(this.find(uuid)));
    const settled = result.catch(() => {}); // only the caller gets the error
    this.#last.set(uuid, settled);
    try {
      return await result;
    } finally {
      if (this.#last.get(uuid) === settled) this.#last.delete(uuid);
    }
  }
}
