import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { dateOf, monotonicMs } from './clock.ts';

const SOURCE = fileURLToPath(new URL('..', import.meta.url));

/** Who may read the date, and how often: to display it, to store it, or to compare it with a date. */
const READS_THE_DATE: Record<string, [times: number, why: string]> = {
  'controller/answers.ts': [1, 'dates of an instance, for its clients'],
  'controller/instances.ts': [1, 'the date of an order, which has to survive a restart'],
  'daemon/capture.ts': [1, 'time stamps in a capture file'],
  'daemon/events.ts': [1, 'time stamps of events, for people'],
  'daemon/vms/create.ts': [1, 'the creation date, for people'],
  'daemon/vms/show.ts': [2, 'when the disk was last written, for clients'],
  'daemon/vms/tags.ts': [1, 'the date of a tag, for people'],
  'engine/process/lease-file.ts': [3, 'the age of a file that was written before the host booted'],
  'engine/user/process/streams.ts': [1, 'time stamps of captured frames'],
  'host/log-file.ts': [1, 'time stamps of log lines'],
  'lib/clock.ts': [1, 'dateOf, for display'],
  'vm/base-image.ts': [1, 'the age of a lock file, compared with the date of the file system'],
  'cli/commands/events.ts': [1, 'prints the date of an event'],
  'cli/commands/guest.ts': [1, 'the date that a guest compares its clock with'],
};

const sources = (dir: string): string[] =>
  readdirSync(dir, { withFileTypes: true }).flatMap((e) =>
    e.isDirectory() ? sources(join(dir, e.name)) : /(?<!\.test)\.ts$/.test(e.name) ? [join(dir, e.name)] : [],
  );

test('B90: durations are measured by the monotonic clock: only the listed files read the date', () => {
  const found = Object.fromEntries(
    sources(SOURCE).flatMap((file) => {
      const times = readFileSync(file, 'utf8').match(/\bDate\.now\b|\bnew Date\b|\btimeOrigin\b|\bdatetime\(|CURRENT_TIMESTAMP|\bmtime(?!Ms)\b/g)?.length ?? 0;
      return times === 0 ? [] : [[relative(SOURCE, file), times]];
    }),
  );
  expect(found).toEqual(Object.fromEntries(Object.entries(READS_THE_DATE).map(([file, [times]]) => [file, times])));
});

test('the clock counts from the boot of the host, and all processes share it', () => {
  const uptime = Number(process.hrtime.bigint()) / 1e6;
  expect(Math.abs(monotonicMs() - uptime)).toBeLessThan(1000);
  expect(Math.abs(dateOf(monotonicMs()) - Date.now())).toBeLessThan(1000);
});
