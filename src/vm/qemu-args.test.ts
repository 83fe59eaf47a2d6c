import { expect, test } from 'vitest';
import type { MachineSpec } from './machine.ts';
import { cardProperties, qemuArguments } from './qemu-args.ts';

const spec: MachineSpec = {
  uuid: 'u',
  name: 'a,b',
  stateDir: '/s',
  runDir: '/r',
  ram: 1024,
  cpus: 2,
  disk: '/s/disk,1.qcow2',
  diskSize: 1 << 30,
  boot: { kind: 'direct', kernel: '/k', initrd: '/i', append: 'root=/dev/vda' },
  nic: { insideMac: 0x564545000001, controller: 'virtio-net', linkUp: true, mtu: 1500 },
  uid: 1,
  gid: 1,
  accel: 'tcg',
};
const fds = { qmp: 3, console: 4, consoleLog: 5, tap: 6 };
const tap = { kind: 'tap-fd' as const, fd: 9, vnetHdr: true, release() {} };

test('the tap is inherited as a descriptor, and commas in names are doubled', () => {
  const line = qemuArguments(spec, tap, fds).join(' ');
  expect(line).toContain('-netdev tap,id=net0,fd=6');
  expect(line).toContain('mac=56:45:45:00:00:01');
  expect(line).toContain('file=/s/disk,,1.qcow2,');
  expect(line).toContain('guest=a,,b');
  expect(line).toContain(' -S ');
  expect(line).not.toContain('-incoming');
});

test('B21: without a card there is no network device at all', () => {
  const line = qemuArguments({ ...spec, nic: null }, null, fds).join(' ');
  expect(line).not.toMatch(/netdev|virtio-net/);
});

test('variants: resume, firmware with a seed, KVM, e1000, jumbo MTU, a stream socket', () => {
  expect(qemuArguments(spec, tap, { ...fds, memory: 7 })).toContain('fd:7');
  const line = qemuArguments(
    { ...spec, boot: { kind: 'firmware', seed: '/s/seed.img' }, accel: 'kvm' },
    { kind: 'stream', path: '/r/net.sock', async listening() {}, release() {} },
    { ...fds, seed: 8 },
  ).join(' ');
  expect(line).toContain('-accel kvm -cpu host');
  expect(line).toContain('-add-fd fd=8,set=2 -drive file=/dev/fdset/2,if=virtio,format=raw,readonly=on');
  expect(line).toContain('stream,id=net0,server=on,addr.type=unix,addr.path=/r/net.sock');
  expect(cardProperties({ insideMac: 1, controller: 'e1000', linkUp: true, mtu: 9000 })).toMatchObject({ driver: 'e1000', mac: '00:00:00:00:00:01' });
  expect(cardProperties({ insideMac: 1, controller: 'virtio-net', linkUp: true, mtu: 9000 })).toMatchObject({ host_mtu: 9000 });
});
