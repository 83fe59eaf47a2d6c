import { describe, expect, test } from 'vitest';
import { orderOf, startSchema, terminateSchema, updateSchema } from './requests.ts';

const TEMPLATE = { uuid: 'u', name: 'debian' };
const order = (body: object) => orderOf(startSchema.parse({ vmid: 'debian', ...body }), TEMPLATE);

test('the least: a template', () =>
  expect(order({})).toEqual({
    templateId: 'u',
    templateName: 'debian',
    tag: 'latest',
    name: '',
    externalId: '',
    groupId: '',
    priority: 1000,
    nameTemplate: '',
    cpus: 0,
    ram: 0,
    rules: [],
    metadata: {},
    script: null,
  }));

test('numbers may be text, nulls count as absent, unknown fields are ignored', () => {
  const body = { count: '3', priority: '5', vcpu: null, tag: null, disk: { size: '100', skip_container_size: false }, usb_device: 'iPhone', mac_address: 'x' };
  expect(order(body)).toMatchObject({ priority: 5, cpus: 0, tag: 'latest' });
  expect(startSchema.parse({ vmid: 'x', count: '3' }).count).toBe(3);
});

test('a startup script, with and without monitoring', () => {
  const startup_script = Buffer.from('sleep 5').toString('base64');
  expect(order({ startup_script }).script).toEqual({
    text: startup_script,
    waitNetwork: true,
    monitored: false,
    timeout: 90,
    onFailure: 'stop',
    progress: 'waiting',
  });
  const monitored = { startup_script, startup_script_condition: 1, script_monitoring: true, script_timeout: 300, script_fail_handler: 2 };
  expect(order(monitored).script).toMatchObject({ waitNetwork: false, monitored: true, timeout: 300, onFailure: 'delete' });
});

test('rules, with the port as text', () =>
  expect(order({ port_forwarding_override: [{ name: 'ssh', guest_port: '22' }] }).rules).toEqual([
    { name: 'ssh', guestPort: 22, hostPort: 0, protocol: 'tcp' },
  ]));

describe('refused', () => {
  test.each([
    ['vmid', {}],
    ['vmid', { vmid: '' }],
    ['vmid', { vmid: ['a'] }],
    ['count', { vmid: 'x', count: 0 }],
    ['count', { vmid: 'x', count: 51 }],
    ['count', { vmid: 'x', count: 1.5 }],
    ['count', { vmid: 'x', count: '1e3' }],
    ['priority', { vmid: 'x', priority: -1 }],
    ['vcpu', { vmid: 'x', vcpu: 65 }],
    ['startup_script', { vmid: 'x', startup_script: 'not base64!' }],
    ['startup_script', { vmid: 'x', startup_script: 'A'.repeat(180_000) }],
    ['script_fail_handler', { vmid: 'x', script_fail_handler: 3 }],
    ['metadata', { vmid: 'x', metadata: { a: {} } }],
    ['port_forwarding_override', { vmid: 'x', port_forwarding_override: [{ name: '../x', guest_port: 22 }] }],
    ['port_forwarding_override', { vmid: 'x', port_forwarding_override: Array.from({ length: 17 }, () => ({ name: 'a', guest_port: 1 })) }],
    ['external_id', { vmid: 'x', external_id: 'x'.repeat(1025) }],
  ])('%s: %j', (field, body) => expect(startSchema.safeParse(body).error?.issues[0]?.path[0]).toBe(field));
  test('too much metadata', () => {
    const metadata = Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, i]));
    expect(updateSchema.safeParse({ metadata }).success).toBe(false);
  });
});

test('both names of the id in a request to terminate', () => {
  expect(terminateSchema.parse({ id: 'a' })).toEqual({ id: 'a' });
  expect(terminateSchema.parse({ instance_id: 'a' })).toEqual({ instance_id: 'a' });
});
