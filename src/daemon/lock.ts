/** One daemon per state folder: a file with the pid and start time of the process that holds it. */
import { closeSync, linkSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';

/** Field 22 of /proc/PID/stat: start time; tells a process from a later one with the same pid. Null when it has ended, reaped or not. */
function startTime(pid: number | 'self'): string | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? null : (fields[19] ?? null);
  } catch {
    return null; // no such process
  }
}

/** Takes the lock. Null when it is ours now, else the pid of the daemon that has it. */
export function takeLock(path: string): number | null {
  const mine = `${path}.${process.pid}`;
  const fd = openSync(mine, 'w', 0o600);
  writeSync(fd, `${process.pid} ${startTime('self')}\n`);
  closeSync(fd);
  try {
    for (let attempt = 0; attempt < 10; attempt++) {
      try {
        linkSync(mine, path);
        return null;
      } catch (cause) {
        if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause;
      }
      let text = '';
      try {
        text = readFileSync(path, 'utf8');
      } catch {
        continue; // let go of meanwhile
      }
      const [pid, time] = text.trim().split(' ');
      if (pid && time && startTime(Number(pid)) === time) return Number(pid);
      rmSync(path, { force: true });
    }
    return -1;
  } finally {
    rmSync(mine, { force: true });
  }
}
