/** What the operations on VMs share. */
import type { CallSettings, OnProgress } from '../../api/service.ts';
import type { Context } from '../context.ts';
import type { Reconciler } from '../reconcile.ts';
import type { VmQueue } from './queue.ts';

export interface VmContext extends Context {
  reconciler: Reconciler;
  queue: VmQueue;
  /** VMs that a client is stopping: their power-off is not reported as the guest's own. */
  stopping: Set<string>;
  /** Reasons against vhost-net that were logged. */
  vhostReasons: Set<string>;
}

/** One request of a client: its settings (B71), and where its progress is reported. */
export interface Call {
  settings: CallSettings;
  progress: OnProgress;
}
