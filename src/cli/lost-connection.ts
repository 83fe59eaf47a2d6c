/** How a command ends whose connection to a guest was lost (B5). */
import { AnkaError } from '../lib/errors.ts';
import type { Output } from './output/output.ts';

/** Status when the guest was not reached in time, or the connection was lost. No program of the guest should use it. */
export const EXIT_LOST = 125;

/** Prints the reason, a clause. Returns the exit status. */
export function reportLost(out: Output, vm: string, reason: string): number {
  out.failed(new AnkaError('network', `the connection to ${vm} was lost: ${reason}`));
  return EXIT_LOST;
}
