/** `npm run bench`: all benchmarks, or one group. */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { missing } from '../test/world/world.ts';
import { benchControl } from './control.ts';
import { benchLoad } from './load.ts';
import { benchNet } from './net.ts';
import { benchTimes } from './times.ts';
import { benchUser } from './user.ts';

const HELP = `Usage: npm run bench -- [OPTIONS]

Measures anka and the programs that it is compared with, in one run.

  --only net|user|load|times|control  Run one group: the kernel engine's speed, the user engine's speed, guests under load, the times of guests, or commands and daemon.
  --vms LIST                          Measure commands and daemon with these numbers of running VMs (default: 1,30).
  --quick                             Fewer and shorter rounds: a check that it runs, not a comparison.
  --json FILE                         Write the figures of every round to FILE.
  --help                              Show this message.
`;

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    vms: { type: 'string', default: '1,30' },
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
if (values.only !== undefined && !['net', 'user', 'load', 'times', 'control'].includes(values.only)) {
  process.stderr.write(`--only '${values.only}': must be net, user, load, times or control\n`);
  process.exit(2);
}
const counts = values.vms.split(',').map(Number);
if (counts.some((n, i) => !(Number.isInteger(n) && n > (counts[i - 1] ?? 0) && n <= 250))) {
  process.stderr.write(`--vms '${values.vms}': must be increasing numbers from 1 to 250, separated by commas\n`);
  process.exit(2);
}
const figures: Record<string, object> = {};
for (const [name, needs, run] of [
  ['net', ['root', 'netns', 'cc'], benchNet],
  ['user', ['root', 'netns', 'tun', 'cc'], benchUser],
  ['load', ['root', 'netns', 'tun', 'cc'], benchLoad],
  ['times', ['root', 'netns', 'tun', 'qemu'], benchTimes],
  ['control', ['root', 'netns', 'tun', 'qemu'], (quick: boolean) => benchControl(quick, counts)],
] as const) {
  if (values.only !== undefined && values.only !== name) continue;
  const why = missing(...needs);
  if (why) console.log(`${name}: skipped, as it ${why}`);
  else figures[name] = await run(values.quick);
}
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
process.exit(0);
