/** What failed while a desired state was applied. An object that fails does not stop the others. */
import type { EngineProblem } from '../engine.ts';

export class ProblemList {
  readonly problems: EngineProblem[] = [];
  readonly #log: { warn(o: object, m: string): void };

  constructor(log: { warn(o: object, m: string): void }) {
    this.#log = log;
  }

  add(object: string, message: string): void {
    this.problems.push({ object, message });
  }

  /** Runs `work`, and adds its failure. */
  readonly attempt = async (object: string, work: () => Promise<unknown>): Promise<void> => {
    try {
      await work();
    } catch (cause) {
      const { message } = cause as Error;
      this.add(object, message);
      this.#log.warn({ object, error: message }, 'not applied');
    }
  };
}
