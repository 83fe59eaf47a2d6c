/** `anka controller run`: Anka's REST API for other programs, in the foreground. */
import { controllerCommand } from '../../host/controller-program.ts';
import { integer } from '../arguments.ts';
import { runInForeground } from '../foreground.ts';
import type { Session } from '../session.ts';

export interface ControllerOptions {
  listen: string;
  tokenFile?: string;
  maxVms?: string;
  nodeAddress?: string;
  cert?: string;
  key?: string;
  clientCa?: string;
}

export async function controllerRun(s: Session, { maxVms, ...rest }: ControllerOptions): Promise<void> {
  const options = {
    ...rest,
    ...(maxVms === undefined ? {} : { maxVms: integer('--max-vms', maxVms, { low: 1, high: 100 }) }),
    machine: s.out.machine,
  };
  const [node, ...argv] = controllerCommand();
  s.exit(await runInForeground(node, [...argv, JSON.stringify(options)], { endUnread: true, pkg: 'nodejs' }).status);
}
