/** Both engines, for suites that run on each of them. */
import { missing } from './world.ts';

/** An engine, and why it cannot run here; null when it can. */
export interface TestedEngine {
  kind: 'kernel' | 'user';
  why: string | null;
}

/** Arguments of `describe.each`: title and engine. A title ends with the reason if its engine cannot run here. */
export function onBothEngines(title = ''): [string, TestedEngine][] {
  const engines: TestedEngine[] = [
    { kind: 'kernel', why: missing('root', 'netns') },
    { kind: 'user', why: missing('root', 'netns', 'tun', 'cc') },
  ];
  return engines.map((e) => [`${title}${e.kind} engine${e.why === null ? '' : ` (${e.why})`}`, e]);
}
