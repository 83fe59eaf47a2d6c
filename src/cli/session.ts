/** What every command has: its output, the daemon, and the settings of the environment. */
import { type Client, connect } from '../api/client.ts';
import { resolvePaths } from '../host/paths.ts';
import { SETTINGS } from '../lib/settings.ts';
import type { Output } from './output.ts';

export interface Session {
  out: Output;
  /** The daemon, started when it does not run. */
  daemon(options?: { autostart?: boolean }): Promise<Client>;
  /** Ends the process with this status after the command. */
  exit(status: number): void;
}

/** `ANKA_KEY` variables for the settings that there are (B71). */
export function environmentSettings(env: NodeJS.ProcessEnv): Record<string, string> {
  const found: Record<string, string> = {};
  for (const s of SETTINGS) {
    const value = env[`ANKA_${s.key.toUpperCase()}`];
    if (value !== undefined && value !== '') found[s.key] = value;
  }
  return found;
}

export function createSession(out: Output): Session {
  return {
    out,
    daemon: (options) => connect(resolvePaths(), { ...options, settings: environmentSettings(process.env) }),
    exit(status) {
      process.exitCode = status;
    },
  };
}

/** A VM's path in the API. */
export const vmPath = (ref: string, rest = ''): string => `/v1/vms/${encodeURIComponent(ref)}${rest}`;
