import { expect, test } from 'vitest';
import type { VmShow } from '../api/types.ts';
import { NO_ADDRESS_YET } from '../lib/rule-reasons.ts';
import { instanceBody, totalRam } from './answers.ts';
import { type Instance, newInstance } from './instance.ts';
import { rulesToAdd } from './instances.ts';

const NODE = { id: 'node', address: '10.9.0.2', registry: 'http://10.9.0.2:8090' };
const ORDER = { templateId: 't', templateName: 'n', tag: 'latest', name: '', externalId: '', groupId: '', priority: 1000, nameTemplate: '', cpus: 0, ram: 0 };
const INSTANCE: Instance = newInstance('i', { ...ORDER, rules: [], metadata: {}, script: null }, 1_700_000_000_000);
const VM: VmShow = {
  uuid: 'v',
  name: 'vm1',
  creation_date: '2026-11-30T10:00:00.000Z',
  access_date: '2026-11-30T10:00:00Z',
  image_id: 'v',
  ram_size: 4 << 30,
  cpu_cores: 2,
  ram: '4G',
  hard_drive: 1,
  image_size: 1,
  status: 'running',
  network: { type: 'shared', healthy: true },
  port_forwarding: [
    { guest_port: 9079, host_port: 10_000, protocol: 'tcp', name: 'le', host_ip: '0.0.0.0' },
    { guest_port: 22, host_port: 10_001, protocol: 'tcp', name: 'ssh', host_ip: '0.0.0.0' },
  ],
};

test('a scheduled instance has no field without a value', () => {
  expect(instanceBody(INSTANCE, null, NODE)).toEqual({
    instance_id: 'i',
    instance_state: 'Scheduling',
    vmid: 't',
    tag: 'latest',
    group_id: '',
    priority: 1000,
    anka_registry: 'http://10.9.0.2:8090',
    arch: expect.stringMatching(/^(amd64|arm64)$/),
    cr_time: '2023-11-14T22:13:20.000Z',
    ts: '2023-11-14T22:13:20.000Z',
    progress: 0,
    vlan: '',
  });
});

test('a started one has its VM, with the ports that are open, in the order of the template', () => {
  const body = instanceBody({ ...INSTANCE, state: 'Started', vm: 'v', externalId: 'job 1' }, VM, NODE);
  expect(body).toMatchObject({
    external_id: 'job 1',
    node_id: 'node',
    vminfo: { uuid: 'v', name: 'vm1', status: 'running', ip: '', host_ip: '10.9.0.2', node_id: 'node' },
  });
  expect(body.vminfo?.port_forwarding?.map((r) => [r.guest_port, r.host_port, r.protocol, r.name, r.rule_name])).toEqual([
    [9079, 10_000, 'tcp', 'le', 'le'],
    [22, 10_001, 'tcp', 'ssh', 'ssh'],
  ]);
  const closed = instanceBody(
    { ...INSTANCE, vm: 'v' },
    {
      ...VM,
      inactive_rules: [
        { name: 'le', reason: '' },
        { name: 'ssh', reason: '' },
      ],
    },
    NODE,
  );
  expect(closed.vminfo).not.toHaveProperty('port_forwarding');
  const booting = { ...VM, inactive_rules: VM.port_forwarding.map(({ name }) => ({ name, reason: NO_ADDRESS_YET })) };
  expect(instanceBody({ ...INSTANCE, vm: 'v' }, booting, NODE).vminfo?.port_forwarding, 'read once, at its start').toHaveLength(2);
});

test('the result of a script, with its errors if there are any', () => {
  const result = { return_code: 3, did_timeout: false, stdout: 'o', stderr: 'e', errors: [] };
  expect(instanceBody({ ...INSTANCE, result }, null, NODE).startup_script).toEqual({ return_code: 3, did_timeout: false, stdout: 'o', stderr: 'e' });
  expect(instanceBody({ ...INSTANCE, result: { ...result, errors: ['x'] } }, null, NODE).startup_script).toMatchObject({ errors: ['x'] });
});

test('memory is summed in MiB', () => expect(totalRam([VM, { ...VM, ram: '512M' }])).toBe(4608));

test('a rule for ssh is added if the template has none', () => {
  expect(rulesToAdd({ rules: [] }, VM)).toEqual([]);
  const bare = { ...VM, port_forwarding: [] };
  const ssh = { name: 'ssh', guest_port: 22, host_port: 0, protocol: 'tcp' };
  expect(rulesToAdd({ rules: [] }, bare)).toEqual([ssh]);
  expect(rulesToAdd({ rules: [] }, bare, '127.0.0.1')).toEqual([{ ...ssh, host_ip: '127.0.0.1' }]);
  expect(rulesToAdd({ rules: [{ name: 'my', guestPort: 22, hostPort: 0, protocol: 'tcp' }] }, bare)).toEqual([{ ...ssh, name: 'my' }]);
  const other = { ...VM, port_forwarding: [{ guest_port: 80, host_port: 1, protocol: 'tcp' as const, name: 'ssh', host_ip: '' }] };
  expect(rulesToAdd({ rules: [] }, other)).toEqual([{ ...ssh, name: 'ssh-tcp-22' }]);
  expect(rulesToAdd({ rules: [] }, { ...bare, network: { type: 'bridge', healthy: true } }), 'rules have no effect there').toEqual([]);
});
