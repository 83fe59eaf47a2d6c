/**
 * The one error type, and the closed list of its kinds.
 *
 * A kind has a stable code (the client's `code`, and the exit status) and a stable exception name (the client's
 * `exception_type`). Codes 3 and 18 are those that existing Anka clients expect (B81). Code 5 is unassigned.
 */

/** Each kind with its code (1–124) and its exception name. */
export const ERROR_KINDS = {
  internal: { code: 1, type: 'InternalException' },
  usage: { code: 2, type: 'UsageException' },
  vmNotFound: { code: 3, type: 'VMNotFoundException' },
  vmNotRunning: { code: 4, type: 'VMNotRunningException' },
  badState: { code: 6, type: 'VMStateException' },
  badValue: { code: 7, type: 'ValueException' },
  ruleExists: { code: 8, type: 'RuleExistsException' },
  ruleNotFound: { code: 9, type: 'RuleNotFoundException' },
  portTaken: { code: 10, type: 'PortTakenException' },
  badImage: { code: 11, type: 'ImageException' },
  network: { code: 12, type: 'NetworkException' },
  subnetClash: { code: 13, type: 'SubnetException' },
  addressTaken: { code: 14, type: 'AddressException' },
  cardExists: { code: 15, type: 'NetworkCardException' },
  cardNotFound: { code: 16, type: 'NetworkCardNotFoundException' },
  unknownSetting: { code: 17, type: 'SettingException' },
  vmExists: { code: 18, type: 'VMExistsException' },
  missingProgram: { code: 19, type: 'MissingProgramException' },
  noRights: { code: 20, type: 'RightsException' },
  diskFull: { code: 21, type: 'DiskSpaceException' },
  daemon: { code: 22, type: 'DaemonException' },
  guest: { code: 23, type: 'GuestException' },
  poolExhausted: { code: 24, type: 'PoolExhaustedException' },
  tagExists: { code: 25, type: 'TagExistsException' },
  tagNotFound: { code: 26, type: 'TagNotFoundException' },
  noRegistry: { code: 27, type: 'RegistryException' },
  unsupported: { code: 28, type: 'UnsupportedException' },
  mountExists: { code: 29, type: 'MountExistsException' },
  mountNotFound: { code: 30, type: 'MountNotFoundException' },
  timeout: { code: 124, type: 'TimeoutException' },
} as const;

export type ErrorKind = keyof typeof ERROR_KINDS;

/** An error as the daemon sends it to a client. */
export interface ErrorBody {
  code: number;
  exception_type: string;
  message: string;
}

/** An error for the user. Its message says what failed, on what, and the command that fixes it. */
export class AnkaError extends Error {
  override readonly name = 'AnkaError';
  readonly kind: ErrorKind;

  constructor(kind: ErrorKind, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.kind = kind;
  }

  /** Stable, 1–124; also the exit status. */
  get code(): number {
    return ERROR_KINDS[this.kind].code;
  }

  /** Stable name: `exception_type` in machine-readable output. */
  get type(): string {
    return ERROR_KINDS[this.kind].type;
  }

  toBody(): ErrorBody {
    return { code: this.code, exception_type: this.type, message: this.message };
  }

  /** The error that a daemon sent. Unknown codes become `internal`. */
  static fromBody(body: ErrorBody): AnkaError {
    const kind = (Object.keys(ERROR_KINDS) as ErrorKind[]).find((k) => ERROR_KINDS[k].code === body.code);
    return new AnkaError(kind ?? 'internal', body.message);
  }
}

/** System errors whose reason a user can remove, by code. `kind`: if it is of one, wherever it occurs. */
const SYSTEM_ERRORS: Readonly<Record<string, { kind?: ErrorKind; remedy: string }>> = {
  ENOSPC: { kind: 'diskFull', remedy: 'free some space' },
  EDQUOT: { kind: 'diskFull', remedy: 'free some space' },
  EFBIG: { kind: 'diskFull', remedy: "raise the limit on the size of files ('ulimit -f')" },
  EROFS: { remedy: 'make the file system writable' },
  EMFILE: { remedy: "stop some VMs, or raise the limit on open files ('ulimit -n') and run 'anka daemon stop'" },
  ENFILE: { remedy: "stop some VMs, or raise the host's limit on open files ('sysctl fs.file-max')" },
};

/** Any thrown value as an AnkaError. `kind`: of errors that have none of their own. */
export function ankaError(cause: unknown, kind: ErrorKind = 'internal'): AnkaError {
  if (cause instanceof AnkaError) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  const known = SYSTEM_ERRORS[(cause as NodeJS.ErrnoException | null)?.code ?? ''];
  return new AnkaError(known?.kind ?? kind, known ? `${message}; ${known.remedy}, and run the command again` : message, { cause });
}

/** As `ankaError`, prefixed with the action that failed ("attaching vm1 to shared: …"). */
export function wrap(action: string, cause: unknown, kind?: ErrorKind): AnkaError {
  const error = ankaError(cause, kind);
  return new AnkaError(error.kind, `${action}: ${error.message}`, { cause });
}
