/** What every command gets: its output, the daemon, and the settings in the environment. */
import type { Client } from '../api/client.ts';
import { SETTINGS } from '../lib/settings.ts';
import type { Output } from './output/output.ts';

export interface Session {
  out: Output;
  /** Connects to the daemon, and starts it first unless `autostart` is false. */
  daemon(options?: { autostart?: boolean }): Promise<Client>;
  /** Sets the status with which the process exits after the command. */
  exit(status: number): void;
}

/** The settings that `ANKA_KEY` variables override (B71). */
function environmentSettings(env: NodeJS.ProcessEnv): Record<string, string> {
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
    async daemon(options) {
      const [{ connect }, { resolvePaths }] = await Promise.all([import('../api/client.ts'), import('../host/paths.ts')]);
      return connect(resolvePaths(), { ...options, settings: environmentSettings(process.env) });
    },
    exit(status) {
      process.exitCode = status;
    },
  };
}

/** A VM's path in the API. */
export const vmPath = (ref: string, rest = ''): string => `/v1/vms/${encodeURIComponent(ref)}${rest}`;
