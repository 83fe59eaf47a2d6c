/**
 * B25: /etc/resolv.conf may be missing, be empty, or become a link to where the process that forwards queries may open
 * nothing (docs/decisions/0016), on both engines: guests get an answer at once, and resolve names as soon as there are
 * servers, without a restart of anything.
 */
import { chmodSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, guest, macText, nic, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';

const SUITES = onBothEngines();

describe.each(SUITES)('%s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  let vm: Namespace;
  let file = '';
  const dig = async (args: string): Promise<string> => ((await vm.ask(`dig +time=15 +tries=1 @192.168.64.1 ${args}`)) ?? 'failed').trim();
  const finding = async (id: string) => (await e.doctor()).find((f) => f.id === id);

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('rc-');
    file = join(w.ownEtc(), 'resolv.conf');
    for (const [address, answer] of [
      ['10.9.0.1', '203.0.113.1'],
      ['10.9.0.3', '203.0.113.3'],
    ]) {
      w.outside.run(`ip addr add ${address}/24 dev ext0 2>/dev/null; true`);
      const options = ['--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--no-hosts', '--user=root', '--bind-interfaces'];
      w.outside.spawn(['dnsmasq', '-k', ...options, `--listen-address=${address}`, `--host-record=www.example.test,${answer}`]);
    }
    e = new RemoteEngine(w, t.kind);
    if (t.kind === 'kernel') vm = guest(w, 1);
    expect(await e.apply(state(nic(1)))).toEqual([]);
    if (t.kind === 'user') vm = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
    await dhcp(w, vm);
    await until('names resolve', async () => (await dig('+short www.example.test')) === '203.0.113.1');
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('it becomes a link to a directory that the forwarder may not open: its servers are used, and its changes', async () => {
    const elsewhere = join(w.dir, 'elsewhere');
    mkdirSync(elsewhere);
    chmodSync(elsewhere, 0o755);
    writeFileSync(join(elsewhere, 'resolv.conf'), 'nameserver 10.9.0.3\n');
    rmSync(file);
    symlinkSync(join(elsewhere, 'resolv.conf'), file);
    await until('the link is followed', async () => (await dig('+short www.example.test')) === '203.0.113.3');
    writeFileSync(join(elsewhere, 'resolv.conf'), 'nameserver 10.9.0.1\n');
    await until('a change behind it, too', async () => (await dig('+short www.example.test')) === '203.0.113.1');
    expect(await finding('resolver.outdated')).toBeUndefined();
    expect(await finding('resolver.stale')).toBeUndefined();
  });

  test.each([
    ['missing', () => {}],
    ['empty', () => writeFileSync(file, '')],
    ['a link to nothing', () => symlinkSync(join(w.dir, 'nothing', 'resolv.conf'), file)],
  ])('it is %s: SERVFAIL at once, and a finding; names resolve as soon as it lists a server', async (_how, cause) => {
    rmSync(file, { force: true });
    writeFileSync(file, 'nameserver 10.9.0.1\n');
    await until('names resolve', async () => (await dig('+short www.example.test')) === '203.0.113.1');
    rmSync(file);
    cause();
    await until('it is seen', async () => (await dig('www.example.test')).includes('status: SERVFAIL'));
    expect(await dig('+short host.anka.internal')).toBe('192.168.64.1');
    expect(await finding('resolver.none')).toMatchObject({ level: 'warning', message: expect.stringContaining('lists no server') });
    // the first remedy: add a server there
    rmSync(file, { force: true });
    writeFileSync(file, 'nameserver 10.9.0.3\n');
    await until('names resolve', async () => (await dig('+short www.example.test')) === '203.0.113.3');
    await until('the finding disappears', async () => !(await finding('resolver.none')));
  });

  test('it lists no server, and the setting dns_servers does, as the second remedy says', async () => {
    writeFileSync(file, '# none\n');
    await until('it is found', () => finding('resolver.none'));
    expect((await finding('resolver.none'))?.remedy).toContain("'anka config dns_servers ADDRESS'");
    expect(await e.apply({ ...state(nic(1)), dnsServers: ['10.9.0.1'] })).toEqual([]);
    await until('names resolve', async () => (await dig('+short www.example.test')) === '203.0.113.1');
    expect(await finding('resolver.none')).toBeUndefined();
    await e.apply(state(nic(1)));
  });
});
