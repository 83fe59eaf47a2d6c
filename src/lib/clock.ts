/**
 * The clock for durations, deadlines and ages: CLOCK_MONOTONIC, which no change of the date moves.
 *
 * Theory of operation: it counts from the host's boot, so all processes of the host share it, and a reading can be
 * stored together with the boot's id (engine/process/lease-file.ts). It stands still while the host sleeps, as guests
 * and their timers do: a lease that counted the sleep would expire on the host but not in its guest
 * (docs/decisions/0022). The date is for display and for files: clock.test.ts lists who may read it.
 */

/** Constant, as both read the same clock. performance.now() creates no object. */
const SINCE_BOOT = Number(process.hrtime.bigint() / 1000n) / 1000 - performance.now();

/** Milliseconds since the host booted, without the time that it slept. */
export const monotonicMs = (): number => performance.now() + SINCE_BOOT;

/** A reading of `monotonicMs` as milliseconds since 1970, for display. */
export const dateOf = (reading: number): number => Date.now() + reading - monotonicMs();
