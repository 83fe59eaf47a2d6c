/** Programs on this host. */
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

/** Whether this user may execute a program, which is a path or is found by PATH. */
export function isInstalled(program: string): boolean {
  const directories = program.includes('/') ? [''] : (process.env['PATH'] ?? '').split(':');
  return directories.some((dir) => {
    try {
      accessSync(join(dir, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
