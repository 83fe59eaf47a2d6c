/** Landlock (landlock(7)): a thread gives up access to files. */
import { declareOnce, onLinux } from './koffi.ts';

/** The same numbers on every machine. */
const SYS_LANDLOCK_CREATE_RULESET = 444;
const SYS_LANDLOCK_ADD_RULE = 445;
const SYS_LANDLOCK_RESTRICT_SELF = 446;
const LANDLOCK_CREATE_RULESET_VERSION = 1;
const LANDLOCK_RULE_PATH_BENEATH = 1;

interface LandlockCalls {
  createRuleset(number: number, attributes: Uint8Array | null, size: number, flags: number): number;
  addRule(number: number, ruleset: number, type: number, attributes: Uint8Array, flags: number): number;
  restrictSelf(number: number, ruleset: number, flags: number): number;
}

const calls = declareOnce(
  ({ func }): LandlockCalls => ({
    createRuleset: func('long syscall(long, uint8_t *, size_t, uint32_t)'),
    addRule: func('long syscall(long, int, int, uint8_t *, uint32_t)'),
    restrictSelf: func('long syscall(long, int, uint32_t)'),
  }),
);

/** ABI version of the kernel's Landlock; 0 if it has none, or it is disabled. */
export function landlockAbi(): number {
  if (!onLinux) return 0;
  return Math.max(0, calls().createRuleset(SYS_LANDLOCK_CREATE_RULESET, null, 0, LANDLOCK_CREATE_RULESET_VERSION));
}

/**
 * A ruleset that denies the file access rights `handled` but for its rules. Returns a descriptor, which the caller
 * closes, or -1 if the kernel refuses.
 */
export function createLandlockRuleset(abi: number, handled: number, scopes: number): number {
  const attributes = Buffer.alloc(24);
  for (const [i, v] of [handled, 0, scopes].entries()) attributes.writeBigUInt64LE(BigInt(v), i * 8);
  return calls().createRuleset(SYS_LANDLOCK_CREATE_RULESET, attributes, abi < 4 ? 8 : abi < 6 ? 16 : 24, 0);
}

/** Allows `rights` on the open file or directory `fd` and all below it; false if the kernel refuses. */
export function addLandlockRule(ruleset: number, fd: number, rights: number): boolean {
  const attributes = Buffer.alloc(12);
  attributes.writeBigUInt64LE(BigInt(rights), 0);
  attributes.writeInt32LE(fd, 8);
  return calls().addRule(SYS_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, attributes, 0) === 0;
}

/** Enforces a ruleset on this thread and its later children, for good; false if the kernel refuses. */
export function restrictByLandlock(ruleset: number): boolean {
  return calls().restrictSelf(SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) === 0;
}
