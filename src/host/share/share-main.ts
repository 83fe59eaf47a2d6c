#!/usr/bin/env node
/**
 * Serves one directory to one guest: SFTP on standard input and output.
 *
 * Theory of operation: the daemon opens the directory and starts this program by fenced-main, as descriptor 3 and with
 * Landlock for it. The program becomes the VM's user, drops all other rights, and restricts the thread that serves once
 * more, to the directory alone. Then it writes one line to standard error, `ready rw`, `ready ro` or `error CODE`, and
 * serves until its input ends. The other end is ssh(1), whose stream comes from the guest.
 *
 * Limits: requests are carried out in order, one at a time. Input is not read while the guest does not read its
 * answers.
 */
import '../no-debugger.ts';
import { accessSync, closeSync, constants, opendirSync, openSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { parseArgs } from 'node:util';
import { SftpPackets } from '../../wire/sftp.ts';
import { confine } from '../sandbox/confinement.ts';
import { dropRoot } from '../sandbox/drop-root.ts';
import { fence } from '../sandbox/fence.ts';
import { ofDescriptor } from './beneath.ts';
import { FileServer } from './file-server.ts';

/** The descriptor of the directory. */
const DIRECTORY = 3;
/** Bytes of answers that may wait for the guest. */
const MAX_UNSENT = 4 << 20;

function report(line: string): void {
  try {
    writeSync(2, `${line}\n`);
  } catch {
    // the daemon has exited, and the next one starts another process
  }
}

/** Whether the directory may be changed. Throws what the system says if it may not be read. */
function probe(root: number): boolean {
  opendirSync(ofDescriptor(root)).closeSync();
  try {
    accessSync(ofDescriptor(root), constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function serve(server: FileServer): void {
  const input = new Socket({ fd: 0, readable: true, writable: false });
  const output = new Socket({ fd: 1, readable: false, writable: true });
  const packets = new SftpPackets();
  const exit = (): never => process.exit(0);
  let blocked = false;
  const work = (): void => {
    try {
      for (let packet = blocked ? null : packets.next(); packet; packet = blocked ? null : packets.next()) {
        output.write(server.answer(packet));
        blocked = output.writableLength > MAX_UNSENT;
      }
    } catch {
      exit(); // not SFTP
    }
    if (blocked) input.pause();
  };
  output.on('drain', () => {
    blocked = false;
    input.resume();
    work();
  });
  input.on('data', (chunk: Buffer) => {
    packets.push(chunk);
    work();
  });
  for (const stream of [input, output]) stream.on('error', exit).on('close', exit).on('end', exit);
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { user: { type: 'string' }, 'read-only': { type: 'boolean' }, vm: { type: 'string' } } });
  const readOnly = values['read-only'] ?? false;
  if (values.user !== undefined) dropRoot(Number(values.user), Number(values.user), [], []);
  process.umask(0o022);
  const root = openSync(ofDescriptor(DIRECTORY), constants.O_RDONLY | constants.O_DIRECTORY);
  closeSync(DIRECTORY);
  await confine({ sockets: false, largeFiles: true });
  const directory = [ofDescriptor(root)];
  fence({ read: readOnly ? directory : [], run: [], write: [], tree: readOnly ? [] : directory });
  const writable = probe(root);
  serve(new FileServer(root, readOnly));
  report(`ready ${writable && !readOnly ? 'rw' : 'ro'}`);
}

main().catch((cause: NodeJS.ErrnoException) => {
  report(`error ${cause.code ?? cause.message}`);
  process.exit(1);
});
