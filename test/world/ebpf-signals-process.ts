/**
 * Checks repeatedly whether eBPF is available, and loads our largest program, until 500 signals have arrived; prints
 * the refusals.
 */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { EbpfObject } from '../../src/engine/kernel/ebpf/object.ts';
import { ebpfRefusal, loadBpf } from '../../src/host/ffi/bpf.ts';

let signals = 0;
process.on('SIGUSR2', () => signals++);
const sender = spawn('sh', ['-c', `while kill -USR2 ${process.pid}; do sleep 0.001; done`]);
const program = new EbpfObject('mac-translate').program('tc/from_guest');
const refusals = new Set<string>();
while (signals < 500) {
  for (let n = 0; n < 20; n++) {
    const refusal = ebpfRefusal();
    if (refusal !== null) refusals.add(refusal);
  }
  try {
    closeSync(loadBpf(program));
  } catch (cause) {
    refusals.add((cause as Error).message);
  }
  await setImmediate(); // lets the signals be counted
}
sender.kill();
console.log(JSON.stringify({ refusals: [...refusals] }));
