/** `anka config` (B70). */
import { basename, dirname, join } from 'node:path';
import type { SettingValue } from '../../api/types.ts';
import type { Paths } from '../../host/paths.ts';
import { AnkaError } from '../../lib/errors.ts';
import { grid } from '../output/grid.ts';
import type { Session } from '../session.ts';
import { readFilter } from './filter-file.ts';

/** Settings of other versions of Anka that cannot be changed here; scripts read them. */
const FIXED: Readonly<Record<string, (p: Paths) => string>> = {
  vm_lib_dir: (p) => join(p.state, 'vms'),
  img_lib_dir: (p) => p.baseImage,
  state_lib_dir: (p) => p.state,
  log_dir: (p) => dirname(p.log),
  log_file: (p) => basename(p.log),
  vm_lock_dir: (p) => p.run,
  default_user: () => 'anka',
  default_passwd: () => 'admin',
};

async function fixedSetting(s: Session, key: string, isChanged: boolean): Promise<void> {
  if (isChanged) throw new AnkaError('unsupported', `${key} cannot be changed`);
  const { resolvePaths } = await import('../../host/paths.ts');
  const value = (FIXED[key] as (p: Paths) => string)(resolvePaths());
  s.out.done(value, value);
}

export async function config(s: Session, key: string | undefined, value: string | undefined, o: { list?: boolean; reset?: boolean }): Promise<void> {
  if (key === undefined) {
    if (o.reset) throw new AnkaError('usage', "Missing argument 'KEY'.");
    return listSettings(s);
  }
  if (Object.hasOwn(FIXED, key)) return fixedSetting(s, key, value !== undefined || (o.reset ?? false));
  const daemon = await s.daemon();
  const path = `/v1/config/${encodeURIComponent(key)}`;
  if (o.reset) {
    const setting = await daemon.delete<SettingValue>(path);
    if (setting.notice) s.out.note(setting.notice);
    return s.out.done({ [setting.key]: setting.value }, setting.value);
  }
  if (value === undefined) {
    const setting = await daemon.get<SettingValue>(path);
    return s.out.done(setting.value, setting.value);
  }
  const setting = await daemon.put<SettingValue>(path, { value: key === 'net_filter' ? ((await readFilter(value)) ?? '') : value });
  s.out.done({}, setting.notice);
}

async function listSettings(s: Session): Promise<void> {
  const all = await (await s.daemon()).get<SettingValue[]>('/v1/config');
  s.out.done(
    Object.fromEntries(all.map((x) => [x.key, x.value])),
    grid(
      ['key', 'value', 'source', 'description'],
      all.map((x) => [x.key, oneLine(x.value), x.source, x.description]),
    ),
  );
}

/** Of a value with several lines, as the rules of a filter, the first one and how many follow. */
function oneLine(value: string): string {
  const [first = '', ...rest] = value.split('\n');
  return rest.length === 0 ? first : `${first} … (${rest.length} more lines)`;
}
