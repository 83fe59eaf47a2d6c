/** `anka console`: this terminal as the guest's serial console. */
import { existsSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { AnkaError } from '../../lib/errors.ts';
import { reportLost } from '../lost-connection.ts';
import { whenUnread } from '../output/unread.ts';
import type { Session } from '../session.ts';
import { VmWatch } from '../vm-watch.ts';

/** Ctrl-], as in telnet(1) and virsh. */
const ESCAPE = 0x1d;
/** Time that the daemon has to notice the end of a VM whose console was closed, ms. */
const NOTICE_MS = 10_000;

export async function openConsole(s: Session, vm: string): Promise<void> {
  const watch = await VmWatch.begin(s, vm, 'machine');
  try {
    const socket = await connect(vm, watch);
    s.out.note(`Connected to the console of ${vm}; Ctrl-] disconnects.`);
    if (await join(socket)) return;
    const why = await Promise.race([watch.ended, sleep(NOTICE_MS, 'QEMU closed it', { ref: false })]);
    s.exit(reportLost(s.out, vm, why));
  } finally {
    watch.close();
  }
}

function connect(vm: string, { access }: VmWatch): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const opening = createConnection(access.console);
    opening.once('error', () => {
      const removed = access.pid !== undefined && !existsSync(access.console);
      const why = removed
        ? `${access.console} was removed; 'anka stop ${vm}' and 'anka start ${vm}' create it again`
        : `it is not running; 'anka start ${vm}' starts it`;
      reject(new AnkaError('vmNotRunning', `cannot open the console of ${vm}: ${why}`));
    });
    opening.once('connect', () => resolve(opening));
  });
}

/**
 * Resolves with true when the user disconnects, or the input or its reader ends; with false when the console was
 * closed by the VM.
 */
function join(socket: Socket): Promise<boolean> {
  const { stdin, stdout } = process;
  let leaving = false;
  const leave = (): void => {
    leaving = true;
    socket.end();
  };
  socket.on('error', () => {}); // 'close' follows: the VM was stopped
  stdin.on('end', leave).on('error', leave);
  if (stdin.isTTY) {
    stdin.setRawMode(true);
    stdin.on('data', (d: Buffer) => {
      if (d.includes(ESCAPE)) leave();
      else socket.write(d);
    });
  } else stdin.pipe(socket, { end: false });
  socket.pipe(stdout, { end: false });
  const watching = whenUnread(leave);
  socket.write('\r'); // makes a login prompt appear
  return new Promise((resolve) => {
    socket.once('close', () => {
      watching.stop();
      if (stdin.isTTY) stdin.setRawMode(false);
      stdin.pause();
      resolve(leaving);
    });
  });
}
