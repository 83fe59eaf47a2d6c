/**
 * B93: each fault that `doctor` knows is caused in a namespace, reported, fixed by its remedy or by removing the cause,
 * and then no longer reported.
 */
import { mkdirSync, symlinkSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DoctorFinding } from '../../src/engine/engine.ts';
import { guest, nic, rule, state } from '../contract/guest-tools.ts';
import { ORDINARY, RemoteEngine } from '../world/remote-engine.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun');
const desired = () => state(nic(1, 'shared', { rules: [rule(10001, 8080), rule(10053, 53, 'udp')] }));

describe.skipIf(why !== null)(`doctor${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;
  const finding = async (id: string): Promise<DoctorFinding | undefined> => (await e.doctor()).find((f) => f.id === id && f.level !== 'ok');
  /** The fault is reported, and no longer once it is fixed. */
  const expectFault = async (id: string, level: 'warning' | 'error', words: RegExp, remedy: RegExp, fix: () => unknown): Promise<void> => {
    const found = await until(`${id} is reported`, () => finding(id));
    expect(found).toMatchObject({ level, message: expect.stringMatching(words), remedy: expect.stringMatching(remedy) });
    await fix();
    await until(`${id} is fixed`, async () => !(await finding(id)));
  };
  const dnsmasq = (address: string) =>
    [
      'dnsmasq',
      '-k',
      '--conf-file=/dev/null',
      '--pid-file=',
      '--no-resolv',
      '--no-hosts',
      '--user=root',
      `--listen-address=${address}`,
      '--bind-interfaces',
    ] as const;

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('dr-');
    guest(w, 1);
    w.outside.spawn(dnsmasq('10.9.0.1'));
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(desired())).toEqual([]);
  });
  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('B93: on a healthy host there is no finding about the networks', async () => {
    await until('the resolver answers', async () => (await finding('resolver.stale')) === undefined);
    const found = (await e.doctor()).filter((f) => f.level !== 'ok' && !['programs', 'rights.kvm', 'rights.vhost'].includes(f.id));
    expect(found).toEqual([]);
  });

  test('B93: a port in use', async () => {
    const otherProgram = w.host.spawn([process.execPath, '-e', "require('net').createServer().listen(10044, () => console.log('ready'))"]);
    await new Promise((resolve) => otherProgram.stdout?.once('data', resolve));
    await e.apply(state(nic(1, 'shared', { rules: [rule(10044, 22)] })));
    await expectFault('ports.taken', 'error', /rule 'tcp10044' of vm1 .*another program holds tcp port 10044/, /ss -H -ltnp sport = :10044/, () =>
      otherProgram.kill(),
    );
    await e.apply(desired());
  });

  test('B93: a resolver that does not answer, a stub resolver without its service, and no resolver', async () => {
    w.setResolver('10.9.0.99');
    await expectFault('resolver.stale', 'error', /10\.9\.0\.99 from \/etc\/resolv\.conf does not answer/, /remove it from/, () => w.setResolver('10.9.0.1'));
    w.setResolver('127.0.0.53');
    await expectFault('resolver.stale', 'error', /127\.0\.0\.53/, /systemctl restart systemd-resolved/, () => w.host.spawn(dnsmasq('127.0.0.53')));
    w.setResolver('');
    await expectFault('resolver.none', 'warning', /lists no server/, /dns_servers/, () => w.setResolver('10.9.0.1'));
  });

  test.each(['kernel', 'user'] as const)('B93, B25: %s engine: a process of ours that sees an old resolv.conf uses what a new daemon sees', async (kind) => {
    const world = kind === 'kernel' ? w : new World('du-');
    const first = kind === 'kernel' ? e : new RemoteEngine(world, 'user');
    const wanted = kind === 'kernel' ? desired() : state(nic(2));
    if (kind === 'user') world.outside.spawn(dnsmasq('10.9.0.1'));
    expect(await first.apply(wanted)).toEqual([]);
    world.replaceResolver('10.9.0.1');
    world.replaceResolver('10.9.0.2');
    world.host.spawn(dnsmasq('10.9.0.2'));
    // a new daemon: the processes that the first one started keep running, with the file that they saw then
    await first.kill();
    const second = new RemoteEngine(world, kind);
    expect(await second.apply(wanted)).toEqual([]);
    // what the new daemon sees counts, and the process forwards there without a restart
    await until('it follows', async () => (await second.doctor()).every((f) => f.id !== 'resolver.outdated'));
    if (kind === 'kernel') {
      e = second;
      world.setResolver('10.9.0.1');
    } else {
      await second.reset();
      world.close();
    }
  });

  test('B93: a subnet clash', async () => {
    w.host.run('ip link add clash0 type bridge; ip link set clash0 up; ip route add 192.168.64.128/25 dev clash0');
    await expectFault(
      'subnet.clash',
      'error',
      /192\.168\.64\.0\/24 of the shared network clashes with the route to 192\.168\.64\.128\/25 through clash0/,
      /anka config shared_subnet/,
      () => w.host.run('ip link del clash0'),
    );
  });

  test('B93: the user engine: no permission to ping, a subnet clash, a resolver that does not answer, no QEMU', async () => {
    const world = new World('dv-');
    const user = new RemoteEngine(world, 'user');
    try {
      expect(await user.apply(state(nic(2)))).toEqual([]);
      const find = async (id: string) => (await user.doctor()).find((f) => f.id === id && f.level !== 'ok');
      world.host.run("sysctl -qw net.ipv4.ping_group_range='1 0'");
      expect(await find('rights.ping')).toMatchObject({ level: 'warning', remedy: expect.stringContaining('ping_group_range') });
      world.host.run("sysctl -qw net.ipv4.ping_group_range='0 2147483647'");
      expect(await find('rights.ping')).toBeUndefined();
      world.host.run('ip link add clash0 type bridge; ip link set clash0 up; ip route add 192.168.64.128/25 dev clash0');
      expect((await find('subnet.clash'))?.message).toMatch(/192\.168\.64\.128\/25 through clash0/);
      world.host.run('ip link del clash0');
      expect(await find('subnet.clash')).toBeUndefined();
      expect(await find('resolver.stale'), 'nothing answers at 10.9.0.1').toMatchObject({ level: 'error' });
      world.outside.spawn(dnsmasq('10.9.0.1'));
      await until('the resolver answers', async () => !(await find('resolver.stale')));
      const module = new URL('../../src/engine/user/doctor.ts', import.meta.url).pathname;
      const text = world.host.run(
        `PATH=/nonexistent ${process.execPath} --import tsx -e "import('${module}').then(async (m) => console.log(JSON.stringify(await m.examineHost({ networks: [], nics: [], dnsServers: [] }, { foreignRoutes: [], forwarders: [], pinger: { groups: [], whose: '', allowed: null }, uid: 0, openFiles: 1024, directories: [] }))))"`,
      );
      const findings = JSON.parse(text.trim().split('\n').at(-1) as string) as DoctorFinding[];
      expect(findings.find((f) => f.id === 'programs')).toMatchObject({ level: 'error', remedy: expect.stringContaining('qemu-system-x86') });
    } finally {
      await user.reset();
      world.close();
    }
  });

  test('B93: the user engine: a low limit of open files, of the running process or the next one', async () => {
    const world = new World('dx-');
    const user = new RemoteEngine(world, 'user');
    try {
      const find = async () => (await user.doctor()).find((f) => f.id === 'limits.files');
      const limit = (pid: number, files: number) =>
        world.host.run(`setpriv --reuid=${ORDINARY} --regid=${ORDINARY} --clear-groups prlimit --pid ${pid} --nofile=${files}`);
      const low = {
        level: 'warning',
        message: expect.stringMatching(/may open 1024 files .* limited to 768 TCP connections/),
        remedy: expect.stringContaining('hard nofile'),
      };
      expect(await user.apply(state(nic(2)))).toEqual([]);
      expect(await find()).toMatchObject({ level: 'ok' });
      const pid = Number(world.host.run(`pgrep -f 'network-mai[n].*${world.dir}'`).trim().split('\n')[0]);
      limit(pid, 1024);
      expect(await find(), 'what it is').toMatchObject(low);
      await user.reset();
      expect(await find(), 'the limit of the next process').toMatchObject({ level: 'ok' });
      limit(user.child.pid as number, 1256);
      expect(await find(), 'the limit of the next process').toMatchObject({ level: 'ok' });
      limit(user.child.pid as number, 1024);
      expect(await find(), 'the limit of the next process').toMatchObject(low);
    } finally {
      await user.reset();
      world.close();
    }
  });

  test('B93: root’s user engine: the permission to ping is that of its network process, which is not root', async () => {
    const world = new World('dw-');
    const user = new RemoteEngine(world, 'user', 'root');
    try {
      const find = async () => (await user.doctor()).find((f) => f.id === 'rights.ping');
      const allow = (range: string) => world.host.run(`sysctl -qw net.ipv4.ping_group_range='${range}'`);
      // before the process starts and while it runs: root's group 0 does not count, the process's own group does
      for (const nics of [[], [nic(2)]]) {
        expect(await user.apply(state(...nics))).toEqual([]);
        allow('0 0');
        expect(await find()).toMatchObject({ level: 'warning', message: expect.stringContaining("root's network processes (1639999000)") });
        allow('1639999000 1639999000');
        expect(await find()).toMatchObject({ level: 'ok' });
      }
    } finally {
      await user.reset();
      world.close();
    }
  });

  test('B93: another firewall that drops by policy: reported while it lacks our accept rule', async () => {
    // the engine repairs this at its next check, so an engine without any network looks at it
    const idle = new World('di-');
    const idleEngine = new RemoteEngine(idle, 'kernel');
    try {
      const find = async (id: string) => (await idleEngine.doctor()).find((f) => f.id === id && f.level === 'warning');
      idle.host.run('nft add table inet wall; nft add chain inet wall walled "{ type filter hook forward priority 0; policy drop; }"');
      expect((await find('firewall.nftables'))?.message).toContain('inet wall walled (forward)');
      idle.host.run('nft delete table inet wall');
      expect(await find('firewall.nftables')).toBeUndefined();
      idle.host.run('iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; iptables -P FORWARD DROP');
      expect((await find('firewall.docker'))?.remedy).toContain('anka-shared');
      idle.host.run('iptables -P FORWARD ACCEPT; iptables -F; iptables -X');
      expect(await find('firewall.docker')).toBeUndefined();
      idle.host.run('iptables -N ufw-before-input; iptables -A INPUT -j ufw-before-input; iptables -P INPUT DROP');
      expect((await find('firewall.ufw'))?.remedy).toContain('iptables-nft -I INPUT -i anka-shared -j ACCEPT');
      idle.host.run('iptables -P INPUT ACCEPT; iptables -F; iptables -X');
      expect(await find('firewall.ufw')).toBeUndefined();
      idle.host.run('nft add table inet firewalld; nft add chain inet firewalld filter_INPUT "{ type filter hook input priority 10; policy drop; }"');
      expect(await find('firewall.firewalld')).toBeDefined();
      idle.host.run('nft delete table inet firewalld');
      expect(await find('firewall.firewalld')).toBeUndefined();
      // leftovers: no network is configured, but one of our interfaces exists
      idle.host.run('ip link add anka-shared type bridge; ip link set anka-shared alias anka:v1:network=shared; nft add table ip anka');
      const left = await idleEngine.doctor().then((f) => f.find((x) => x.id === 'leftovers'));
      expect(left).toMatchObject({ level: 'warning', remedy: "run 'anka network reset'" });
      expect(left?.message).toMatch(/interface anka-shared.*nft table ip anka/);
      await idleEngine.reset();
      expect((await idleEngine.doctor()).find((x) => x.id === 'leftovers')?.level).toBe('ok');
    } finally {
      idleEngine.child.kill('SIGKILL');
      idle.close();
    }
  });

  test('B93: forwarding off', async () => {
    // repeated: the engine gets no notice of this, but checks now and then, and may repair it before doctor sees it
    const off = (devices: readonly string[]): Promise<DoctorFinding[]> =>
      until('it is reported', async () => {
        for (const dev of devices) w.host.run(`sysctl -qw net.ipv4.conf.${dev}.forwarding=0`);
        const all = (await e.doctor()).filter((f) => f.level !== 'ok' && /^(forwarding|routing)/.test(f.id));
        return all.some((f) => f.id === 'forwarding') ? all : null;
      });
    const [found] = await off(['en0']);
    expect(found).toMatchObject({ id: 'forwarding', level: 'error', message: expect.stringMatching(/forwarding is off on en0/) });
    expect(found?.remedy).toBe('sysctl -w net.ipv4.conf.en0.forwarding=1');
    // nothing is wrong with the routes
    for (const devices of [['en0'], ['anka-shared'], ['anka-shared', 'en0']]) expect((await off(devices)).map((f) => f.id)).toEqual(['forwarding']);
    expect(await e.apply(desired())).toEqual([]);
    expect(await finding('forwarding')).toBeUndefined();
  });

  test('B93: missing programs and permissions', async () => {
    const bin = `${w.dir}/bin`;
    mkdirSync(bin);
    for (const p of ['ip', 'nft', 'ps', 'setpriv']) symlinkSync(w.host.run(`command -v ${p}`).trim(), `${bin}/${p}`);
    const world = w;
    const text = world.host.run(
      `mount -t tmpfs tmpfs /dev/net 2>/dev/null || true; PATH=${bin} ${process.execPath} --import tsx -e "import('${new URL('../../src/engine/kernel/doctor.ts', import.meta.url).pathname}').then(async (m) => console.log(JSON.stringify(await m.examineHost({ networks: [], nics: [], dnsServers: [] }, [], [], []))))"`,
    );
    const findings = JSON.parse(text.trim().split('\n').at(-1) as string) as DoctorFinding[];
    expect(findings.find((f) => f.id === 'rights.tun')).toMatchObject({ level: 'error', message: expect.stringContaining('/dev/net/tun') });
    expect(findings.find((f) => f.id === 'programs')).toMatchObject({ level: 'error', remedy: expect.stringMatching(/^apt-get install .*qemu-utils/) });
  });
});
