/** `anka config` (B70). */
import type { SettingValue } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { grid } from '../output/grid.ts';
import type { Session } from '../session.ts';

export async function config(s: Session, key: string | undefined, value: string | undefined, o: { list?: boolean; reset?: boolean }): Promise<void> {
  if (key === undefined) {
    if (o.reset) throw new AnkaError('usage', "Missing argument 'KEY'.");
    return listSettings(s);
  }
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
  const setting = await daemon.put<SettingValue>(path, { value });
  s.out.done({}, setting.notice);
}

async function listSettings(s: Session): Promise<void> {
  const all = await (await s.daemon()).get<SettingValue[]>('/v1/config');
  s.out.done(
    Object.fromEntries(all.map((x) => [x.key, x.value])),
    grid(
      ['key', 'value', 'source', 'description'],
      all.map((x) => [x.key, x.value, x.source, x.description]),
    ),
  );
}
