/** Settings in force: the call's environment first, then what is stored, then the default (B70, B71). */
import type { CallSettings } from '../api/service.ts';
import type { SettingValue } from '../api/types.ts';
import { checkSetting, findSetting, SETTINGS } from '../lib/settings.ts';
import type { SettingStore } from '../store/settings.ts';

/** Throws `badValue` for a bad value in the environment, and `unknownSetting`. */
export function settingValue(store: SettingStore, key: string, overrides: CallSettings = {}): SettingValue {
  const s = findSetting(key);
  const stored = store.all().get(key);
  const override = overrides[key];
  const value = override !== undefined ? checkSetting(key, override) : (stored ?? s.default);
  return {
    key,
    value,
    default: s.default,
    source: override !== undefined ? 'environment' : stored !== undefined ? 'stored' : 'default',
    description: s.description,
  };
}

export function allSettings(store: SettingStore, overrides: CallSettings): SettingValue[] {
  return SETTINGS.map((s) => settingValue(store, s.key, overrides));
}
