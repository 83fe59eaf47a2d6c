/** Packet filters by the command, of real guests, on both engines (B130, docs/filters.md). */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const ENGINES = [
  { kind: 'kernel' as const, why: missing('root', 'netns', 'tun', 'qemu') },
  { kind: 'user' as const, why: missing('root', 'netns', 'qemu') },
];
const SUITES = ENGINES.map((t) => [`${t.kind} engine${t.why === null ? '' : ` (${t.why})`}`, t] as const);
const OUTSIDE = '10.9.0.1';
/** The login of `anka run` comes from the gateway of either network. */
const LOGIN = 'pass in from 192.168.0.0/16 to port 22';

describe.each(SUITES)('packet filters of real guests: %s', (_name, t) => {
  let w: World;
  let anka: Anka;

  const pings = async (address: string): Promise<boolean> => (await anka.run(['run', 'vm1', 'ping', '-c1', '-W5', address])).status === 0;
  const shown = async (vm = 'vm1'): Promise<string> => (await anka.ok(`show ${vm} network -f`)).trimEnd();

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('vf-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    anka = new Anka(w, tinyGuest(), { ordinary: t.kind === 'user' });
    await anka.ok('create -m 128M -c 1 -d 1G vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B130: set from standard input while the VM is stopped, in force when it starts; explain and show name it', async () => {
    const text = `# a login, and nothing else\n${LOGIN}\nblock any\n`;
    expect(await anka.run(['modify', 'vm1', 'network', '-f', '-'], { input: text })).toMatchObject({ status: 0, stdout: '' });
    expect(await shown()).toBe(text.trimEnd());
    expect(await anka.body('describe vm1')).toMatchObject({ network_cards: [{ net_filter: text.trimEnd() }] });
    await anka.ok('start vm1');
    await anka.address('vm1');
    expect(await pings(OUTSIDE)).toBe(false);
    expect(await anka.ok('show vm1')).toMatch(/filter +\| 2 rules/);
    expect(await anka.body(`explain vm1 tcp to ${OUTSIDE}:80`)).toMatchObject({ verdict: 'dropped', rule: 'filter line 3: block any' });
  });

  test('B130: changed live: the glued form, a file, off; JSON has the rules as given', async () => {
    expect((await anka.run(['modify', 'vm1', 'network', '-f-'], { input: `${LOGIN}\npass out proto icmp\nblock any` })).status).toBe(0);
    expect(await pings(OUTSIDE)).toBe(true);
    const file = join(w.dir, 'rules');
    writeFileSync(file, `${LOGIN}\nblock out to ${OUTSIDE}\n`);
    chmodSync(file, 0o644);
    await anka.ok(`modify vm1 set network-card --filter ${file}`);
    expect(await pings(OUTSIDE)).toBe(false);
    expect(await pings('198.51.100.1')).toBe(true);
    expect(await anka.body('show vm1 network -f')).toBe(`${LOGIN}\nblock out to ${OUTSIDE}`);
    await anka.ok('modify vm1 network -f off');
    expect(await pings(OUTSIDE)).toBe(true);
    expect(await shown()).toBe('');
  });

  test('B130: a bad filter changes nothing and names its line', async () => {
    await anka.run(['modify', 'vm1', 'network', '-f-'], { input: `${LOGIN}\nblock out to ${OUTSIDE}` });
    const bad = await anka.run(['modify', 'vm1', 'network', '-f', '-', '-t', 'host'], { input: 'pass in\n\nblok any\n' });
    expect(bad).toEqual({ status: 7, stdout: '', stderr: "anka: network filter: line 3, 'blok any': 'blok': a rule begins with block or pass\n" });
    expect(await shown()).toBe(`${LOGIN}\nblock out to ${OUTSIDE}`);
    expect(await anka.body('show vm1 network type')).toBe('shared');
    expect((await anka.run(['modify', 'vm1', 'network', '-f', '/nowhere/rules'])).stderr).toContain('cannot read /nowhere/rules');
    expect((await anka.run(['config', 'net_filter', '-'], { input: 'block' })).status).toBe(7);
    expect((await anka.ok('config net_filter')).trim()).toBe('');
    expect(await pings(OUTSIDE)).toBe(false);
    expect(await pings('198.51.100.1')).toBe(true);
  });

  test('B130: it stays with another network, after suspend, and when the daemon was killed; a clone has it', async () => {
    const rules = `${LOGIN}\npass out to 192.168.128.1\nblock any`;
    await anka.run(['modify', 'vm1', 'network', '-f-'], { input: rules });
    const blocked = async (): Promise<void> => {
      await until('the host is reached', () => pings('192.168.128.1'));
      expect(await pings(OUTSIDE)).toBe(false);
      expect(await anka.body(`explain vm1 icmp to 192.168.128.9`)).toMatchObject({ verdict: 'dropped', rule: 'filter line 3: block any' });
    };
    await anka.plug('modify vm1 network -t host', 'vm1', 'host');
    await blocked();
    await anka.killDaemon();
    await blocked();
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    await blocked();
    await anka.ok('clone vm1 vm2');
    expect(await shown('vm2')).toBe(rules);
    await anka.ok('delete --yes vm2');
  });

  test('B130: the setting net_filter is for VMs without a filter of their own, live', async () => {
    await anka.ok('modify vm1 network -f off');
    await anka.plug('modify vm1 network -t shared', 'vm1', 'shared');
    expect(await pings(OUTSIDE)).toBe(true);
    expect((await anka.run(['config', 'net_filter', '-'], { input: `${LOGIN}\nblock any\n` })).status).toBe(0);
    expect(await shown()).toBe(`${LOGIN}\nblock any`);
    expect(await pings(OUTSIDE)).toBe(false);
    await anka.run(['modify', 'vm1', 'network', '-f', '-'], { input: 'pass any' });
    expect(await pings(OUTSIDE), 'its own comes first').toBe(true);
    await anka.ok('modify vm1 network -f off');
    expect(await pings(OUTSIDE)).toBe(false);
    await anka.ok('config net_filter off');
    expect(await pings(OUTSIDE)).toBe(true);
  });
});
