/** Checks repeatedly whether eBPF is available, until 500 signals have arrived; prints the refusals. */
import { spawn } from 'node:child_process';
import { setImmediate } from 'node:timers/promises';
import { ebpfRefusal } from '../../src/host/ffi/bpf.ts';

let signals = 0;
process.on('SIGUSR2', () => signals++);
const sender = spawn('sh', ['-c', `while kill -USR2 ${process.pid}; do sleep 0.001; done`]);
const refusals = new Set<string>();
while (signals < 500) {
  for (let n = 0; n < 20; n++) {
    const refusal = ebpfRefusal();
    if (refusal !== null) refusals.add(refusal);
  }
  await setImmediate(); // lets the signals be counted
}
sender.kill();
console.log(JSON.stringify({ refusals: [...refusals] }));
