/** The socket for streams to a guest of the user engine. */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import type { GuestAccess } from '../api/types.ts';
import { AnkaError } from '../lib/errors.ts';

/** Throws `network` if its directory was removed. Without the socket alone, the network process may be restarting. */
export function demandStreamSocket(vm: string, { stream_socket: path }: GuestAccess): void {
  if (path === undefined || existsSync(dirname(path))) return;
  throw new AnkaError('network', `${vm}: the directory ${dirname(path)} was removed; stop all VMs of this network, and start them again`);
}
