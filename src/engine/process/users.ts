/**
 * Users of root's helper processes: below those of its VMs (daemon/desired.ts); like them, no account has these ids
 * (docs/decisions/0012).
 */
export const PROCESS_UIDS = { shared: 1_639_999_001, host: 1_639_999_002, service: 1_639_999_003 } as const;
export const PROCESS_GID = 1_639_999_000;

export const isRoot = (): boolean => process.getuid?.() === 0;

/** Arguments for such a process; none when we are not root. */
export function asUser(uid: number): string[] {
  return isRoot() ? ['--user', String(uid), '--group', String(PROCESS_GID)] : [];
}
