/** `anka console`: this terminal as the guest's serial console. */
import { createConnection } from 'node:net';
import type { GuestAccess } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { type Session, vmPath } from '../session.ts';

/** Ctrl-], as in telnet(1) and virsh. */
const ESCAPE = 0x1d;

export async function openConsole(s: Session, vm: string): Promise<void> {
  const access = await (await s.daemon()).get<GuestAccess>(vmPath(vm, '/guest'));
  await new Promise<void>((resolve, reject) => {
    const socket = createConnection(access.console);
    socket.once('error', () => reject(new AnkaError('vmNotRunning', `cannot open the console of ${vm}: it is not running; 'anka start ${vm}' starts it`)));
    socket.once('connect', () => {
      s.out.note(`Connected to the console of ${vm}; Ctrl-] disconnects.`);
      if (process.stdin.isTTY) process.stdin.setRawMode(true);
      process.stdin.on('data', (d: Buffer) => {
        if (process.stdin.isTTY && d.includes(ESCAPE)) socket.end();
        else socket.write(d);
      });
      process.stdin.on('end', () => socket.end());
      socket.pipe(process.stdout, { end: false });
      socket.write('\r'); // makes a login prompt appear
    });
    socket.once('close', () => {
      if (process.stdin.isTTY) process.stdin.setRawMode(false);
      process.stdin.pause();
      resolve();
    });
  });
}
