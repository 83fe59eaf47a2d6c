/** B93: remedies of `anka doctor` that are commands of `anka`'s own, run as they are printed, on both engines. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DoctorFinding } from '../../src/engine/engine.ts';
import { commandsOf } from '../contract/host-faults.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const SERVER = ['-k', '--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--no-hosts', '--user=root', '--bind-interfaces'];
const RENAME = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('update vms set name = ? where name = ?', sys.argv[2:]); c.commit()";

describe.each(['kernel', 'user'] as const)('remedies by anka, %s engine', (engine) => {
  const why = missing('root', 'netns', 'tun', 'qemu');
  let w: World;
  let anka: Anka;
  /** The findings with this id that are not `ok`. */
  const found = async (id: string): Promise<DoctorFinding[]> => {
    const { stdout } = await anka.run(['-j', 'doctor']);
    return (JSON.parse(stdout) as { body: DoctorFinding[] }).body.filter((f) => f.id === id && f.level !== 'ok');
  };
  /** Waits for a finding, runs one of its commands, and waits until the finding has disappeared. */
  const remedy = async (id: string, choose: (commands: string[]) => string | undefined): Promise<DoctorFinding> => {
    const [finding] = await until(`${id} is found`, async () => {
      const all = await found(id);
      return all.length > 0 ? (all as [DoctorFinding]) : null;
    });
    const command = choose(commandsOf(finding.remedy));
    expect(command, finding.remedy).toMatch(/^anka /);
    await anka.ok((command as string).replace(/^anka /, ''));
    await until(`${id} disappears`, async () => (await found(id)).length === 0);
    return finding;
  };
  const resolves = async (): Promise<boolean> => (await anka.run(['run', '-N', 'vm1', 'nslookup', 'www.example.test'])).stdout.includes('203.0.113.9');

  beforeEach((context) => context.skip(why !== null));

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('rm-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    anka = new Anka(w, tinyGuest());
    w.outside.spawn(['dnsmasq', ...SERVER, '--listen-address=10.9.0.1', '--host-record=www.example.test,203.0.113.9']);
    await anka.ok(`config engine ${engine}`);
    await anka.ok('create -m 128M -c 1 -d 1G vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test.skipIf(engine === 'user')('leftovers: an interface of ours that no VM uses', async () => {
    w.host.run('ip link add anka000000aa type bridge');
    await remedy('leftovers', ([command]) => command);
    expect(w.host.attempt('ip link show anka000000aa')).toBeNull();
  });

  test('resolver.stale: a server that does not answer', async () => {
    await anka.ok('start vm1');
    await anka.address('vm1');
    w.setResolver('10.9.0.99');
    const finding = await remedy('resolver.stale', (commands) => commands.find((c) => c.includes('dns_servers'))?.replace('ADDRESS', '10.9.0.1'));
    expect(finding.message).toContain('10.9.0.99');
    await until('names resolve', resolves);
    w.setResolver('10.9.0.1');
    await anka.ok('config -r dns_servers');
    expect(await found('resolver.stale')).toEqual([]);
    await until('names resolve by resolv.conf', resolves);
  });

  test('subnet.clash: a route of the host overlaps the shared network', async () => {
    w.host.run('ip link add clash0 type bridge; ip link set clash0 up; ip route add 192.168.64.128/25 dev clash0');
    const finding = await remedy('subnet.clash', ([command]) => command);
    const subnet = /shared_subnet (\S+)\.0\/24/.exec(finding.remedy)?.[1] as string;
    await until('the guest has an address there', async () => (await anka.address('vm1')).startsWith(`${subnet}.`));
    await anka.reaches('vm1', '10.9.0.1');
    w.host.run('ip link del clash0');
  });

  test('names: a VM with a name that an earlier version allowed', async () => {
    await anka.killDaemon();
    await w.host.ask(`python3 -c "${RENAME}" ${anka.home}/anka.db localhost vm1`);
    const finding = await remedy('names', ([command]) => command?.replace('NEW_NAME', 'vm1'));
    expect(finding.message).toContain("VM 'localhost' is not found by its DNS name");
    expect((await anka.run(['run', '-N', 'vm1', 'nslookup', 'vm1.anka.internal'])).stdout).toContain(await anka.address('vm1'));
  });
});
