/**
 * Work that is due once a second, all of it at the same time: an idle process is then woken once, not once for each.
 */

const SECOND_MS = 1000;

const due = new Set<() => void>();
let timer: NodeJS.Timeout | null = null;

/**
 * Runs `work`, which must not throw, once a second until the returned function is called. It does not keep the process
 * alive. The first time is at most a second away.
 */
export function everySecond(work: () => void): () => void {
  const entry = (): void => work();
  due.add(entry);
  timer ??= setInterval(() => {
    for (const run of due) run();
  }, SECOND_MS).unref();
  return () => {
    due.delete(entry);
    if (due.size > 0 || !timer) return;
    clearInterval(timer);
    timer = null;
  };
}
