import { expect, test } from 'vitest';
import type { MachineSpec } from './machine.ts';
import { cardProperties, qemuArguments, tapProperties } from './qemu-args.ts';

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
const fds = { qmp: 3, console: 4, consoleLog: 5, tap: { fds: [6], vhostFds: [] } };
const tap = { kind: 'tap' as const, fds: [9], vhostFds: [], release() {} };
const stream = { kind: 'stream' as const, path: '/r/net.sock', async listening() {}, release() {} };
const card = { insideMac: 1, controller: 'virtio-net' as const, linkUp: true, mtu: 1500 };

test('the tap is inherited as a descriptor, and commas in names are doubled', () => {
  const line = qemuArguments(spec, tap, fds).join(' ');
  expect(line).toContain('-netdev tap,id=net0,fds=6 ');
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
  const line = qemuArguments({ ...spec, boot: { kind: 'firmware', seed: '/s/seed.img' }, accel: 'kvm' }, stream, { ...fds, seed: 8 }).join(' ');
  expect(line).toContain('-accel kvm -cpu host');
  expect(line).toContain('-add-fd fd=8,set=2 -drive file=/dev/fdset/2,if=virtio,format=raw,readonly=on');
  expect(line).toContain('stream,id=net0,server=on,addr.type=unix,addr.path=/r/net.sock');
  expect(cardProperties({ ...card, controller: 'e1000', mtu: 9000 }, tap)).toMatchObject({ driver: 'e1000', mac: '00:00:00:00:00:01' });
  expect(cardProperties({ ...card, mtu: 9000 }, tap)).toMatchObject({ host_mtu: 9000 });
});

/** What a card has of queues. */
function queuesOf(properties: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(properties).filter(([name]) => /^(mq|vectors|.x_queue_size|host_mtu)$/.test(name)));
}

test('a virtio card on a tap has a pair of queues for each descriptor, and the largest ring that QEMU takes', () => {
  const several = { ...tap, fds: [9, 10, 11] };
  expect(queuesOf(cardProperties(card, tap))).toEqual({ rx_queue_size: 1024 });
  expect(queuesOf(cardProperties(card, several))).toEqual({ rx_queue_size: 1024, mq: true, vectors: 8 });
  expect(queuesOf(cardProperties(card, { ...several, vhostFds: [12, 13, 14] }))).toEqual({ rx_queue_size: 1024, mq: true, vectors: 8 });
  expect(queuesOf(cardProperties(card, stream))).toEqual({});
  expect(queuesOf(cardProperties({ ...card, controller: 'e1000' }, tap))).toEqual({});
});

test('the descriptors of a tap and of vhost-net, on the command line and for netdev_add', () => {
  const line = (vhostFds: number[]): string =>
    qemuArguments({ ...spec, nic: card }, { ...tap, fds: [9, 10], vhostFds }, { ...fds, tap: { fds: [6, 7], vhostFds: vhostFds.map((_, i) => 8 + i) } }).join(
      ' ',
    );
  expect(line([])).toContain('-netdev tap,id=net0,fds=6:7 -device virtio-net-pci,');
  expect(line([])).toMatch(/,rx_queue_size=1024,mq=on,vectors=6 /);
  expect(line([])).not.toContain('vhost');
  expect(line([11, 12])).toContain('-netdev tap,id=net0,fds=6:7,vhost=on,vhostfds=8:9 ');
  expect(tapProperties({ fds: ['tap0', 'tap1'], vhostFds: [] })).toEqual({ type: 'tap', id: 'net0', fds: 'tap0:tap1' });
  expect(tapProperties({ fds: ['tap0'], vhostFds: ['vhost0'] })).toEqual({ type: 'tap', id: 'net0', fds: 'tap0', vhost: true, vhostfds: 'vhost0' });
});
