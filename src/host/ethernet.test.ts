import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { classifyInterface, defaultUplink, foreignMacDoubt, hasCarrier, usableInterfaces } from './ethernet.ts';

const sys = mkdtempSync(join(tmpdir(), 'anka-sys-'));
afterAll(() => rmSync(sys, { recursive: true }));

/** Adds an interface to a tree like sysfs. Content of a file, `>TARGET` for a symbolic link, `/` for a directory. */
function add(name: string, index: number, files: Record<string, string>): void {
  mkdirSync(join(sys, name));
  for (const [file, content] of Object.entries({ type: '1', ifindex: String(index), carrier: '1', ...files })) {
    mkdirSync(join(sys, name, file, '..'), { recursive: true });
    if (content === '/') mkdirSync(join(sys, name, file), { recursive: true });
    else if (content.startsWith('>')) symlinkSync(content.slice(1), join(sys, name, file));
    else writeFileSync(join(sys, name, file), content);
  }
}
add('lo', 1, { type: '772' });
add('wl0', 2, { device: '/', wireless: '/' });
add('en1', 3, { device: '/', carrier: '0' });
add('en0', 4, { 'device/driver': '>../drivers/e1000e' });
add('usb0', 5, { device: '/' });
add('tun0', 6, { type: '65534', tun_flags: '0x1001' });
add('tap0', 7, { tun_flags: '0x1002' });
add('docker0', 8, { bridge: '/' });
add('en2', 9, { device: '/', brport: '/', 'brport/bridge': '>../../docker0', master: '>../docker0' });
add('bond0', 10, { bonding: '/', lower_en3: '/', lower_en4: '/' });
add('en3', 11, { device: '/', master: '>../bond0' });
add('en4', 12, { device: '/', master: '>../bond0' });
add('vlan7', 13, { uevent: 'DEVTYPE=vlan\n', lower_en0: '/' });
add('veth1', 14, {});
add('ww0', 15, { device: '/', uevent: 'DEVTYPE=wwan\n' });
add('ens5', 16, { 'device/driver': '>../drivers/ena' });
add('eth0', 17, { 'device/driver': '>../drivers/virtio_net' });
add('wlbond', 18, { bonding: '/', lower_wl0: '/' });

add('cali1', 19, {});
/** Of these veths the other end is in another network namespace. */
const CARDS = new Set(['cali1']);

describe('interfaces for type bridge', () => {
  test.each([
    ['lo', 'is the loopback interface'],
    ['wl0', 'is wireless; access points drop frames of other stations'],
    ['tun0', 'is not an Ethernet interface'],
    ['tap0', 'is a virtual tunnel'],
    ['veth1', 'is virtual, not an Ethernet card'],
    ['ww0', 'is a mobile modem'],
    ['en3', 'belongs to bond0; bridge to bond0'],
    ['wlbond', 'is virtual, not an Ethernet card'],
    ['en9', 'does not exist'],
  ])('B17: %s is refused: it %s', (name, why) => expect(classifyInterface(name, CARDS, sys)).toEqual({ usable: false, why }));

  test.each([
    ['en0', null],
    ['usb0', null],
    ['bond0', null],
    ['vlan7', null],
    ['docker0', 'docker0'],
    ['en2', 'docker0'],
    ['cali1', null],
  ])('B17: %s is usable, by bridge %s', (name, bridge) => expect(classifyInterface(name, CARDS, sys)).toEqual({ usable: true, bridge }));

  test('B17: usable interfaces are listed in the order of their index', () =>
    expect(usableInterfaces(CARDS, sys)).toEqual(['en1', 'en0', 'usb0', 'docker0', 'en2', 'bond0', 'vlan7', 'ens5', 'eth0']));

  test('B18: the default is the interface of the default route if it is Ethernet, else the first card with a link', () => {
    expect(defaultUplink(['usb0', 'en0'], CARDS, sys)).toBe('usb0');
    expect(defaultUplink(['wl0', 'bond0'], CARDS, sys)).toBe('bond0');
    expect(hasCarrier('en1', sys)).toBe(false);
    expect(defaultUplink(['wl0'], CARDS, sys)).toBe('en0');
    expect(defaultUplink([], CARDS, sys)).toBe('en0');
  });

  test('B17, B18: in a container, its card is proposed, and is the default; on a host, only if it has the default route', () => {
    const inside = join(sys, '../', `${basename(sys)}-container`);
    mkdirSync(inside);
    for (const [from, to] of [
      ['lo', 'lo'],
      ['docker0', 'docker0'],
      ['veth1', 'veth1'],
      ['cali1', 'eth0'],
    ])
      symlinkSync(join(sys, from as string), join(inside, to as string));
    const cards = new Set(['eth0']);
    expect(usableInterfaces(cards, inside)).toEqual(['docker0', 'eth0']);
    expect(defaultUplink([], cards, inside)).toBe('eth0');
    expect(defaultUplink(['cali1'], CARDS, sys)).toBe('cali1');
    rmSync(inside, { recursive: true });
  });

  test('B93: networks that drop foreign MAC addresses are recognized by the driver and by the vendor of a virtual machine', () => {
    const vendor = join(sys, 'vendor');
    writeFileSync(vendor, 'Amazon EC2\n');
    expect(foreignMacDoubt('ens5', sys, vendor)).toMatch(/^ens5 \(driver ena\): Amazon/);
    expect(foreignMacDoubt('eth0', sys, vendor)).toMatch(/^eth0: networks of Amazon EC2/);
    writeFileSync(vendor, 'QEMU\n');
    expect(foreignMacDoubt('eth0', sys, vendor)).toBeNull();
    expect(foreignMacDoubt('en0', sys, vendor)).toBeNull();
    rmSync(vendor);
  });
});
