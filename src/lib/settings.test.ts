import { describe, expect, test } from 'vitest';
import { checkSetting, findSetting, SETTINGS } from './settings.ts';
import { formatSize, parseSize } from './sizes.ts';

describe('settings', () => {
  test('B70: every default passes its own check', () => {
    for (const s of SETTINGS) expect(checkSetting(s.key, s.default)).toBe(s.default);
  });
  test('B70: an unknown key fails, and the nearest one is proposed', () =>
    expect(() => findSetting('bridge_nam')).toThrow("unknown setting 'bridge_nam'; did you mean 'bridge_name'? ('anka config -l' lists all settings)"));
  test.each([
    ['engine', 'magic', "engine = 'magic': must be one of auto, kernel, user"],
    ['portfwd_base', '0', "portfwd_base = '0': must be a whole number from 1 to 65535"],
    ['portfwd_base', 'x', "portfwd_base = 'x': must be a whole number from 1 to 65535"],
    ['shared_subnet', '192.168.64.1/24', "shared_subnet = '192.168.64.1/24': must begin at a network address of /24"],
    ['shared_subnet', '192.168.64.0/30', "shared_subnet = '192.168.64.0/30': must be a subnet such as 192.168.80.0/24, with a prefix from 16 to 29"],
    ['host_subnet', '127.0.0.0/24', "host_subnet = '127.0.0.0/24': must be a unicast subnet outside 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16 and 224.0.0.0/3"],
    ['shared_subnet', '169.254.8.0/24', "shared_subnet = '169.254.8.0/24': must be a unicast subnet"],
    ['permanent_mac_prefix', '57:45:45', "permanent_mac_prefix = '57:45:45': must not be a multicast prefix (first byte odd)"],
    ['mtu', '100', "mtu = '100': must be a whole number from 576 to 65520"],
  ])('B70: %s = %s fails', (key, value, message) => expect(() => checkSetting(key, value)).toThrow(message));
});

test('sizes are parsed and formatted', () => {
  for (const t of ['4G', '512M', '1536M', '80G', '100']) expect(formatSize(parseSize(t) as number)).toBe(t);
  expect(parseSize('80GiB')).toBe(80 * 2 ** 30);
  expect(parseSize('1.5g')).toBe(1.5 * 2 ** 30);
  for (const bad of ['', 'G', '4X', '-1G', '4G4', '1e9']) expect(parseSize(bad)).toBeNull();
});
