/**
 * Bridge type with a real guest (the tiny one) on a host where eBPF is not available: QEMU's tap behind a macvlan
 * (docs/decisions/0007).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');

describe.skipIf(why !== null)(`a real guest bridged without eBPF${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  let ip = '';
  const LIMIT = 'bridged to en0 by macvlan, as eBPF is not available: it and this host cannot reach each other';
  const onEn0 = (): string =>
    w.host.run('ip -4 -o addr show en0; ip route show dev en0; ip -o link show type macvlan; tc qdisc show dev en0 | grep clsact; true');
  const banner = (from: Namespace): Promise<string | null> => from.ask(`timeout 10 bash -c 'exec 3<>/dev/tcp/${ip}/22 && head -c 4 <&3'`);
  let bare = '';

  beforeAll(async () => {
    w = new World('mq-');
    anka = new Anka(w, tinyGuest(), { withoutEbpf: true });
    w.outside.spawn([
      ...['dnsmasq', '-k', '--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--user=root', '--port=0', '--interface=ext0', '--bind-interfaces'],
      ...['--dhcp-range=10.9.0.100,10.9.0.199,1h', '--dhcp-leasefile=/dev/null', '--no-ping'],
    ]);
    bare = onEn0();
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
    await anka.ok('start vm1');
    await anka.address('vm1');
  });
  afterAll(async () => {
    if (!w) return;
    await anka.end();
    expect(onEn0(), 'nothing is left on the interface').toBe(bare);
    w.close();
  });

  test('B16, B22, B52: a running guest is moved, and the command prints the limit; it has an address from the foreign server and is reachable from outside', async () => {
    expect(await anka.ok('modify vm1 set network-card -t bridge -b en0')).toBe(`vm1 is on bridge en0; ${LIMIT}\n`);
    ip = await until('it has an address there', async () => {
      const seen = (await anka.body<{ ip?: string }>('show vm1')).ip;
      return seen?.startsWith('10.9.0.1') ? seen : null;
    });
    const log = join(anka.home, 'run/vm', (await anka.ok('show vm1 uuid')).slice(0, 8), 'console.log');
    expect(readFileSync(log, 'latin1')).toContain(`udhcpc: bound ${ip}`);
    expect(await banner(w.outside)).toBe('SSH-');
    const mac = (await anka.body<{ mac: string }>('show vm1')).mac;
    expect(w.outside.run(`ip neigh show ${ip}`)).toContain(mac);
    expect(await anka.body('network list')).toContainEqual(expect.objectContaining({ name: 'bridge', interface: 'en0', vms: ['vm1'], message: LIMIT }));
  });

  test('the limit is as printed: the host is not reachable, and stays connected; --mac is refused', async () => {
    expect(w.host.pings(ip)).toBe(false);
    expect(w.host.pings('10.9.0.1')).toBe(true);
    expect((await anka.run(['modify', 'vm1', 'set', 'network-card', '--mac', '52:54:00:00:00:09'])).stderr).toMatch(/^anka: .*eBPF/);
  });

  test('B22: back to shared', async () => {
    expect(await anka.ok('modify vm1 set network-card -t shared')).toMatch(/^vm1 is on shared with address 192\.168\.64\.\d+\n$/);
    expect(onEn0()).toBe(bare);
  });
});
