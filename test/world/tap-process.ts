/**
 * Runs src/host/ffi/tap.ts inside a namespace: creates taps for a user, and connects processes whose taps were
 * removed, or that only opened the device. Prints what the kernel says of the taps, and the errors.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { createTap, openTap, reconnectTap } from '../../src/host/ffi/tap.ts';

/** Opens the device so often, and connects nothing. */
const HOLDER = `
import os, sys
for _ in range(int(sys.argv[1])): os.open('/dev/net/tun', os.O_RDWR)
print('open', flush=True)
sys.stdin.read()`;

async function holder(count: number): Promise<ChildProcess & { pid: number }> {
  const child = spawn('python3', ['-c', HOLDER, String(count)], { stdio: ['pipe', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  return child as ChildProcess & { pid: number };
}

function dataOf(tap: string): object {
  const [link] = JSON.parse(execFileSync('ip', ['-d', '-j', 'link', 'show', tap], { encoding: 'utf8' })) as [
    { linkinfo: { info_data: Record<string, unknown> } },
  ];
  const { persist, user, vnet_hdr, multi_queue, numqueues } = link.linkinfo.info_data;
  return { persist, user, vnet_hdr, multi_queue, numqueues };
}

function errorOf(work: () => void): string {
  try {
    work();
    return '';
  } catch (cause) {
    return (cause as Error).message.replace(/\d+/g, 'N');
  }
}

createTap('one', 1640099999, false);
createTap('several', 1640099999, true);
const created = [dataOf('one'), dataOf('several')];
const [single, queues] = [openTap('one', 1), openTap('several', 2)];
const inUse = [errorOf(() => openTap('one', 1)), errorOf(() => reconnectTap(process.pid, 'one', 1, 12))];
for (const tap of ['one', 'several']) execFileSync('ip', ['link', 'del', tap]);
createTap('one', 1640099999, false);
createTap('several', 1640099999, true);
reconnectTap(process.pid, 'one', 1, 12);
reconnectTap(process.pid, 'several', 2, 12);
const again = [dataOf('one'), dataOf('several')];
for (const fd of [...single, ...queues]) closeSync(fd);
const greedy = await holder(5);
reconnectTap(greedy.pid, 'several', 2, 12);
const bounded = dataOf('several');
const without = await holder(0);
const errors = [errorOf(() => reconnectTap(without.pid, 'one', 1, 12)), errorOf(() => reconnectTap(greedy.pid, 'none/such', 1, 12))];
for (const child of [greedy, without]) {
  child.kill();
  await once(child, 'exit');
}
errors.push(errorOf(() => reconnectTap(without.pid, 'one', 1, 12)));
console.log(JSON.stringify({ created, inUse, again, bounded, errors }));
