/**
 * Runs src/engine/kernel/host-changes.ts inside a namespace: while this process does nothing else, more changes are
 * made than the kernel keeps messages of; then one of an interface of ours. Prints what was reported of each.
 */
import { execFileSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { HostChanges } from '../../src/engine/kernel/host-changes.ts';

const counts = { links: 0, rules: 0, unknown: 0, warnings: 0 };
const changes = new HostChanges({
  log: { warn: () => void counts.warnings++ },
  onLinks: () => void counts.links++,
  onRules: () => void counts.rules++,
  onUnknown: () => void counts.unknown++,
});
const ip = (lines: readonly string[]): Buffer => execFileSync('ip', ['-batch', '-'], { input: lines.join('\n') });

ip(['link add other0 type veth peer name other1', 'link add anka-shared type bridge']);
changes.start();
const before = { ...counts };
const flood = Array.from({ length: 6000 }, (_, i) => `link set other0 mtu ${1300 + (i % 2)}`);
ip([...flood, 'link set anka-shared mtu 1400']);
while (counts.unknown === 0) await sleep(10);
const lost = { ...counts };
await sleep(100);
const settled = { ...counts };
ip(['link set other0 mtu 1500']);
ip(['link set anka-shared mtu 1350']);
while (counts.links === settled.links) await sleep(10);
changes.stop();
console.log(
  JSON.stringify({ before, lost: lost.unknown, later: counts.links - settled.links, again: counts.unknown - lost.unknown, warnings: counts.warnings }),
);
