/** `anka nc HOST PORT`: standard input and output connected to a TCP port of a VM, for ssh's ProxyCommand (B14). */
import { createConnection, type Socket } from 'node:net';
import type { Client } from '../../api/client.ts';
import type { GuestAccess, VmListEntry } from '../../api/types.ts';
import { beginStream } from '../../lib/begin-stream.ts';
import { AnkaError } from '../../lib/errors.ts';
import { joinStreams } from '../../lib/join-streams.ts';
import { integer } from '../arguments.ts';
import { type Session, vmPath } from '../session.ts';

/** The VM with this name, UUID or IP address; null for an address that no VM has. */
async function findGuest(daemon: Client, host: string): Promise<GuestAccess | null> {
  let ref = host;
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) {
    const vm = (await daemon.get<VmListEntry[]>('/v1/vms')).find((v) => v.ip === host);
    if (!vm) return null;
    ref = vm.uuid;
  }
  const access = await daemon.get<GuestAccess>(vmPath(ref, '/guest'));
  if (access.address === undefined)
    throw new AnkaError('vmNotRunning', `${host} has no IP address; start it with 'anka start ${host}', or check it with 'anka show ${host}'`);
  return access;
}

/** A TCP connection from this host. */
function dial(address: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host: address, port, allowHalfOpen: true, noDelay: true });
    socket.once('error', reject);
    socket.once('connect', () => resolve(socket.off('error', reject)));
  });
}

export async function nc(s: Session, host: string, port: string): Promise<void> {
  const number = integer('PORT', port, { low: 1, high: 65_535 });
  const access = await findGuest(await s.daemon(), host);
  const streamSocket = access?.stream_socket;
  const failed = (e: Error): never => {
    throw new AnkaError('network', `${host} port ${number}: ${e.message}`);
  };
  const opened = streamSocket === undefined ? dial(access?.address ?? host, number) : beginStream(streamSocket, { dial: { id: access?.uuid, port: number } });
  await joinStreams(await opened.catch(failed), process.stdin, process.stdout).catch(failed);
}
