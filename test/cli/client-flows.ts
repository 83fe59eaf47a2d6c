/**
 * Existing clients of Anka: their command lines, in the order in which each of them sends them, with the environment
 * that it gives, against the daemon and the tiny guest (docs/clients.md). A line is worth what comes back, and what has
 * happened in the guest.
 */
import { chmodSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka, type Result } from '../world/anka.ts';
import { debianGuest, tinyGuest } from '../world/images.ts';
import { shellWords } from '../world/shell-words.ts';
import { missing, until, World } from '../world/world.ts';

interface Envelope {
  status: 'OK' | 'ERROR';
  body: unknown;
  message: string;
  code: number;
}

const why = missing('root', 'netns', 'tun', 'qemu');

/** Sizes of the VMs, as created and as changed. */
const GUESTS = {
  tiny: { image: tinyGuest, ram: '128M', disk: '1G', moreRam: '160M', moreDisk: '2G' },
  Debian: { image: debianGuest, ram: '512M', disk: '4G', moreRam: '640M', moreDisk: '6G' },
} as const;
const bytesOf = (size: string): number => Number.parseInt(size, 10) * (size.endsWith('G') ? 2 ** 30 : 2 ** 20);

/** Declares the flows of all clients with the tiny guest, or of those that need a whole system with Debian. */
export function describeClients(guest: keyof typeof GUESTS): void {
  describe.skipIf(why !== null)(`clients of Anka, ${guest} guest${why === null ? '' : `: ${why}`}`, () => {
    const size = GUESTS[guest];
    let w: World;
    let anka: Anka;

    beforeAll(async () => {
      w = new World(guest === 'tiny' ? 'cl-' : 'cd-');
      anka = new Anka(w, await size.image());
      await anka.ok(`create -m ${size.ram} -c 1 -d ${size.disk} base`);
    });

    afterAll(async () => {
      if (!w) return;
      await anka.end();
      w.close();
    });

    /** One line as a client sends it. */
    const send = (line: string, options: { env?: Record<string, string>; input?: string } = {}): Promise<Result> => anka.run(shellWords(line), options);

    /** Sends a line that asks for JSON, as Go clients read it: what is behind the last newline of both outputs. */
    async function json(line: string, options: { env?: Record<string, string>; input?: string } = {}): Promise<Envelope> {
      const r = await send(line, options);
      const last = `${r.stdout}`.split('\n').at(-1) as string;
      expect(r.stderr, `${line}: nothing may follow the JSON`).toMatch(/^$|\n$/);
      const envelope = JSON.parse(last) as Envelope;
      expect([envelope.status === 'OK', envelope.code], line).toEqual([r.status === 0, r.status]);
      return envelope;
    }

    async function ok<T>(line: string, options: { env?: Record<string, string>; input?: string } = {}): Promise<T> {
      const e = await json(line, options);
      expect(e.status, `${line}: ${e.message}`).toBe('OK');
      return e.body as T;
    }

    const show = <T>(vm: string): Promise<T> => ok<T>(`-j show ${vm}`);
    const inGuest = async (vm: string, script: string): Promise<string> => {
      const r = await anka.run(['run', vm, 'sh', '-c', script]);
      expect(r.status, `${script}: ${r.stderr}`).toBe(0);
      return r.stdout;
    };

    test('Packer: clone, provision by standard input, copy both ways, stop, modify, describe, license', async () => {
      // it hands on ANKA_* and PATH only
      const bare = async (line: string, input?: string): Promise<Result> =>
        new Promise((resolve) => {
          const env = Object.entries(anka.env).map(([k, v]) => `${k}=${v}`);
          const child = w.host.spawn(
            ['env', '-i', `PATH=${process.env['PATH']}`, ...env, ...anka.commandLine('').split(' ').slice(-2, -1), ...shellWords(line)],
            {},
            'pipe',
          );
          let [stdout, stderr] = ['', ''];
          child.stdout?.on('data', (d) => (stdout += d));
          child.stderr?.on('data', (d) => (stderr += d));
          child.stdin?.end(input ?? '');
          child.on('close', (status) => resolve({ status: status ?? 128, stdout, stderr }));
        });
      const version = await json('--machine-readable version');
      expect(version.body).toEqual({ product: 'anka-net', version: expect.stringMatching(/^\d+\.\d+/), build: expect.any(String) });
      const { uuid } = await show<{ uuid: string }>('base');
      expect(await json('--machine-readable show packer')).toMatchObject({ status: 'ERROR', code: 3, message: 'packer: not found' });
      await ok(`--machine-readable clone ${uuid} packer`);
      expect((await json(`--machine-readable clone ${uuid} packer`)).code).toBe(18);
      expect(await show('packer')).toMatchObject({
        name: 'packer',
        cpu_cores: 1,
        ram: size.ram,
        ram_size: bytesOf(size.ram),
        hard_drive: bytesOf(size.disk),
        status: 'stopped',
        image_id: expect.any(String),
      });
      await ok('--machine-readable stop packer');
      await ok(`--machine-readable modify packer set hard-drive -s ${size.moreDisk}`);
      await ok(`--machine-readable modify packer set ram ${size.moreRam}`);
      await ok('--machine-readable modify packer set cpu -c 2');
      expect((await json('--machine-readable modify packer set cpu --htt')).message).toContain('--htt has no effect');
      await ok('--machine-readable modify packer set cpu --no-htt');
      await ok('--machine-readable modify packer add port-forwarding --host-port 0 --guest-port 22 ssh');
      await ok('--machine-readable modify packer add port-forwarding --host-port 10030 --guest-port 80 web');
      expect((await json('--machine-readable modify packer set custom-variable hw.uuid 5d1b40')).message).toContain('no effect');
      await ok('--machine-readable modify packer set custom-variable hw.UUID 5d1b40');
      await ok('--machine-readable modify packer set display -c pg');
      await ok('--machine-readable start --update-addons packer');
      expect((await bare('--machine-readable show packer')).stdout).toContain('"status":"OK"');

      const driver = await bare('run -n packer kextstat | grep "com.veertu.filesystems.vtufs" &>/dev/null');
      expect(driver.status, 'no driver: it must not use -v').not.toBe(0);
      const provisioned = await bare(
        'run -n packer sh -s',
        'x=$(cat /proc/meminfo | head -1)\necho "$x"\nnproc\ncat /sys/block/vda/size\necho provisioned >/tmp/made\n',
      );
      expect(provisioned.status, provisioned.stderr).toBe(0);
      const [memory, cpus, sectors] = provisioned.stdout.trim().split('\n');
      expect([cpus, sectors]).toEqual(['2', String(bytesOf(size.moreDisk) / 512)]);
      expect(Number(memory?.replace(/\D/g, '')) << 10, 'more than it had before').toBeGreaterThan(bytesOf(size.ram) * 0.85);
      if (guest === 'Debian')
        expect(Number(await inGuest('packer', "df -B1 / | awk 'NR==2{print $2}'")), 'its file system has grown').toBeGreaterThan(bytesOf(size.disk));
      expect((await bare('run -n packer sh', 'exit 7\n')).status).toBe(7);
      expect((await send('run -N -n packer sh -s', { input: 'cat /tmp/made\n' })).stdout).toBe('provisioned\n');
      const debug = await send('--log-level debug run -n packer sh -s', { input: 'echo out; exit 3\n' });
      expect([debug.status, debug.stdout]).toEqual([3, 'out\n']);

      const upload = join(w.dir, 'upload123');
      writeFileSync(upload, 'echo hi\n');
      chmodSync(upload, 0o755);
      symlinkSync(upload, join(w.dir, 'link'));
      const copied = await bare(`--machine-readable cp -pRLf ${join(w.dir, 'link')} packer:/private/tmp/script.sh`);
      expect(copied.stdout).toMatch(/^\{"status":"OK"/);
      expect(await inGuest('packer', 'sh /tmp/script.sh; [ -x /tmp/script.sh ] && [ ! -L /tmp/script.sh ] && echo executable')).toBe('hi\nexecutable\n');
      mkdirSync(join(w.dir, 'dir/sub'), { recursive: true });
      writeFileSync(join(w.dir, 'dir/sub/f'), 'deep');
      await ok(`--machine-readable cp -pRLf ${join(w.dir, 'dir')} packer:/tmp/dst`);
      expect(await inGuest('packer', 'cat /tmp/dst/sub/f')).toBe('deep');
      await ok(`--machine-readable cp -pRLf packer:/tmp/dst/sub/f ${join(w.dir, 'download123')}`);
      expect(readFileSync(join(w.dir, 'download123'), 'utf8')).toBe('deep');
      expect(await json(`--machine-readable cp -pRLf packer:/tmp/absent ${join(w.dir, 'y')}`)).toMatchObject({
        message: expect.stringContaining('/tmp/absent: no such file'),
      });

      await ok('--machine-readable suspend packer');
      expect((await send('run -n --wait-time packer sh -s', { input: 'cat /tmp/made\n' })).stdout, 'a suspended VM is resumed').toBe('provisioned\n');
      await ok('--machine-readable stop --force packer');
      const described = await ok<{ network_cards: { port_forwarding_rules: { rule_name: string; host_port: unknown }[] }[]; cpu: { cores: number } }>(
        '--machine-readable describe packer',
      );
      expect(described.cpu.cores).toBe(2);
      expect(described.network_cards[0]?.port_forwarding_rules.map((r) => [r.rule_name, r.host_port])).toEqual([
        ['ssh', 0],
        ['web', 10030],
      ]);
      expect(await ok('--machine-readable license show')).toMatchObject({ status: 'valid', license_type: expect.not.stringMatching(/(run|develop)$/) });
      expect(await ok('--machine-readable create --list')).toEqual([]);
      expect((await json('--machine-readable create --app /no/Installer.app --disk-size 100G --cpu-count 4 --ram-size 8G other')).message).toContain(
        'use a qcow2 or raw disk image',
      );

      await ok('--machine-readable registry push --tag local-tag-abc --local packer');
      expect(await show('packer')).toMatchObject({ version: 'local-tag-abc' });
      expect((await json('--machine-readable registry push --tag local-tag-abc --local packer')).message).toContain("already has a local tag 'local-tag-abc'");
      await ok('--machine-readable registry push --tag T --description D --remote-vm V --local --force packer');
      await ok('--machine-readable registry pull --tag local-tag-abc --local --shrink packer');
      expect(await ok('-j show packer tag')).toMatchObject([{ tag: 'local-tag-abc', current: true }]);
      for (const line of [
        'registry list',
        'registry --remote R --cert C --key K --cacert CA --insecure pull --tag T packer',
        'registry push --tag T packer',
        'pull packer',
      ])
        expect(await json(`--machine-readable ${line}`), line).toMatchObject({
          status: 'ERROR',
          message: expect.stringContaining('no registry is configured'),
        });
      expect(await ok('--machine-readable registry list-repos')).toEqual([]);
      await ok('--machine-readable delete --yes packer');
      expect((await ok<{ name: string }[]>('--machine-readable list')).map((v) => v.name)).toEqual(['base']);
    });

    test('Buildkite: list, clone, run with -e and --env-file, copies of trees, suspend, delete', async () => {
      expect((await send('list job')).status).toBe(3);
      expect((await send('--debug list base')).stdout).toContain('| base');
      await send('--debug clone base job');
      expect((await send('list job')).status).toBe(0);
      await ok('-j stop job');
      expect((await send('modify job set cpu 1')).status).toBe(0);
      expect((await send(`modify job set ram ${size.ram}`)).status).toBe(0);
      expect((await send('modify job set network-card --mac 02:00:00:00:00:01')).status).toBe(0);
      const file = join(w.dir, 'job.env');
      writeFileSync(file, '# a comment\nA=from file\nQUOTED="x y" $HOME `id`\n\nEMPTY=\n');
      expect((await send(`run --env-file ${file} -e BUILDKITE_AGENT_ACCESS_TOKEN=x job true`)).status).toBe(0);
      const secret = 'it\'s "$HOME" \\ `id` *';
      const r = await anka.run(
        [
          'run',
          '--env-file',
          file,
          '-e',
          'A=1',
          '-e',
          `S=${secret}`,
          '-e',
          'LINES=a\nb\n',
          '-e',
          'GIVEN',
          'job',
          'sh',
          '-c',
          'printf "%s|" "$A" "$S" "$QUOTED" "$EMPTY" "$LINES" "$GIVEN"; cat',
        ],
        {
          input: 'the input',
          env: { GIVEN: 'by the host' },
        },
      );
      expect(r.stdout).toBe(`1|${secret}|"x y" $HOME \`id\`||a\nb\n|by the host|the input`);
      const inherited = await anka.run(['run', '-E', 'job', 'sh', '-c', 'echo "$ONLY_HERE $HOME"'], { env: { ONLY_HERE: 'host', HOME: '/nowhere' } });
      expect(inherited.stdout, 'variables that the guest has stay').toBe('host /home/anka\n');
      const held = w.host.spawn(['sh', '-c', `exec ${anka.commandLine('run -e TOKEN=s3cr3t job sleep 60')}`], {}, 'pipe');
      const isHeld = `cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -q '[s]leep 60'`;
      await until('the command runs', async () => (await anka.run(['run', 'job', 'sh', '-c', isHeld])).status === 0);
      const lines = w.host.run(`ip netns pids ${w.host.name} | while read p; do tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null; echo; done; true`);
      expect(lines.split('\n').filter((l) => l.startsWith('ssh ') && l.includes('s3cr3t'))).toEqual([]);
      held.kill('SIGTERM');

      expect((await send("--debug run -e A=1 job bash -c 'command -v buildkite-agent'")).status).toBeGreaterThan(0);
      const agent = join(w.dir, 'buildkite-agent');
      writeFileSync(agent, '#!/bin/sh\ntty >/dev/null && echo on a terminal\necho "agent $*"\nexit 4\n');
      chmodSync(agent, 0o755);
      expect((await send(`cp -a ${agent} job:/usr/local/bin/`)).status).toBe(0);
      const bootstrap = await send(
        'run -e A=1 -e PATH=/usr/local/bin:/bin job script -q /dev/null buildkite-agent bootstrap --job 1 --phases checkout,command',
      );
      expect([bootstrap.status, bootstrap.stdout.replaceAll('\r', '')]).toEqual([4, 'on a terminal\nagent bootstrap --job 1 --phases checkout,command\n']);
      expect((await send('run job sleep 1')).status).toBe(0);

      const dir = join(w.dir, 'tree');
      mkdirSync(join(dir, '.hidden'), { recursive: true });
      writeFileSync(join(dir, 'run.sh'), '#!/bin/sh\n');
      chmodSync(join(dir, 'run.sh'), 0o750);
      symlinkSync('run.sh', join(dir, 'link'));
      writeFileSync(join(dir, '-odd name'), 'x');
      expect((await send(`cp -a ${dir} job:/tmp/made`)).status).toBe(0);
      expect((await send(`cp -a ${dir} job:/tmp/made`)).status).toBe(0);
      expect(await inGuest('job', 'cd /tmp/made; ls -A; readlink link; stat -c %a run.sh; ls tree')).toBe(
        '-odd name\n.hidden\nlink\nrun.sh\ntree\nrun.sh\n750\n-odd name\nlink\nrun.sh\n',
      );
      mkdirSync(join(w.dir, 'out'));
      expect((await send(`cp -a job:/tmp/made/. ${join(w.dir, 'out')}`)).status).toBe(0);
      expect(readdirSync(join(w.dir, 'out')).sort()).toEqual(['-odd name', '.hidden', 'link', 'run.sh', 'tree']);
      expect([readlinkSync(join(w.dir, 'out/link')), lstatSync(join(w.dir, 'out/run.sh')).mode & 0o777]).toEqual(['run.sh', 0o750]);

      expect((await send('suspend job')).status).toBe(0);
      expect((await send('list job')).stdout).toContain('suspended');
      expect((await send('registry list-repos -d')).status).not.toBe(0);
      for (const line of ['registry list', 'registry -r R list', 'registry pull --tag T --version 2 -s job', 'registry -r R pull --tag T job'])
        expect((await send(line)).status, line).toBe(27);
      expect((await send('delete --yes job')).status).toBe(0);
    });

    test('GitHub action: cp -fa ./, cp of a linked directory, run --wait-network --wait-time --no-volume', async () => {
      await ok('-j clone base gh');
      expect((await send('start  gh')).status).toBe(0);
      expect((await send('cp --help')).status).toBe(0);
      const r = await send("run --wait-network --wait-time --no-volume gh bash -c 'mkdir -p ./; pwd'");
      expect([r.status, r.stdout]).toEqual([0, '/home/anka\n']);
      const repository = join(w.dir, 'repository');
      mkdirSync(join(repository, '.git'), { recursive: true });
      writeFileSync(join(repository, 'code'), 'c');
      const inRepository = (line: string) => w.host.spawn(['sh', '-c', `cd ${repository} && exec ${anka.commandLine(line)}`], {}, 'pipe');
      const exit = (child: ReturnType<typeof inRepository>) => new Promise((resolve) => child.on('close', resolve));
      expect(await exit(inRepository('cp -fa ./ gh:./'))).toBe(0);
      expect(await inGuest('gh', 'ls -A')).toMatch(/(^|\n)\.git\n(.*\n)*code\n/);
      symlinkSync(repository, join(w.dir, 'linked'));
      expect((await send(`cp -fRH ${join(w.dir, 'linked')}/ gh:./linked`)).status).toBe(0);
      expect(await inGuest('gh', 'cat linked/code')).toBe('c');
      await inGuest('gh', 'echo artifact >a.txt');
      expect(await exit(inRepository('cp -fa gh:a.txt ./'))).toBe(0);
      expect(readFileSync(join(repository, 'a.txt'), 'utf8')).toBe('artifact\n');
      expect((await send('delete --yes gh')).status).toBe(0);
    });

    if (guest === 'Debian') return;

    test('anklet, anka-mcp: JSON of each command, and what is absent', async () => {
      expect((await anka.run([])).status).toBe(0);
      expect(await ok('-j version')).toMatchObject({ version: expect.any(String) });
      expect(await ok('-j license show')).toMatchObject({ status: 'valid', product: expect.any(String), license_type: expect.any(String) });
      expect(await ok('-j list -r')).toEqual([]);
      expect(await ok('-j list --running')).toEqual([]);
      const { uuid } = await show<{ uuid: string }>('base');
      expect(await ok(`-j list ${uuid}`)).toEqual([expect.objectContaining({ name: 'base', status: 'stopped' })]);
      expect(await json('-j list nosuch')).toMatchObject({ code: 3, message: 'nosuch: not found' });
      expect(await ok(`-j show ${uuid}`)).toMatchObject({
        image_size: expect.any(Number),
        access_date: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/),
      });
      expect(await ok(`-j show ${uuid} tag`)).toEqual([]);
      await ok(`-j clone ${uuid} anklet-vm-x`);
      expect((await send('modify anklet-vm-x cpu 2')).status).toBe(0);
      expect((await send('modify anklet-vm-x ram 160M')).status).toBe(0);
      await ok('-j start anklet-vm-x');
      expect(await ok<unknown[]>('-j list -r')).toHaveLength(1);
      writeFileSync(join(w.dir, 'install-runner.bash'), 'echo installed >made; nproc\n');
      await ok(`-j cp -a ${join(w.dir, 'install-runner.bash')} anklet-vm-x:`);
      chmodSync(join(w.dir, 'install-runner.bash'), 0o755);
      const run = await send("-j run anklet-vm-x bash -c 'sh ./install-runner.bash'");
      expect([run.status, run.stdout]).toEqual([0, '2\n']);
      expect((await send("-j run anklet-vm-x bash -c 'exit 9'")).status).toBe(9);
      await ok(`-j cp -a anklet-vm-x:made ${join(w.dir, 'made')}`);
      expect(readFileSync(join(w.dir, 'made'), 'utf8')).toBe('installed\n');
      const shared = join(w.dir, 'host');
      mkdirSync(shared);
      chmodSync(shared, 0o777);
      writeFileSync(join(shared, 'given'), 'from the host');
      await ok(`-j mount anklet-vm-x ${shared}:guest`);
      expect(await inGuest('anklet-vm-x', 'cat /media/guest/given; echo back >/media/guest/made; sync')).toBe('from the host');
      expect(readFileSync(join(shared, 'made'), 'utf8')).toBe('back\n');
      expect(await ok('-j show anklet-vm-x mount')).toMatchObject([{ name: 'guest', host_path: shared }]);
      await ok(`-j unmount anklet-vm-x ${shared}`);
      expect((await send(`run -v ${shared}:vol anklet-vm-x cat /media/vol/given`)).stdout).toBe('from the host');
      expect(await ok('-j show anklet-vm-x mount')).toEqual([]);
      await ok('-j stop -f anklet-vm-x');
      await ok(`--machine-readable modify anklet-vm-x mount ${shared}:guestname`);
      await ok('-j modify anklet-vm-x delete mount guestname');
      expect((await send('push --local --tag 6c14r anklet-vm-x')).status).toBe(0);
      expect(await ok('-j show anklet-vm-x tag')).toMatchObject([{ tag: '6c14r' }]);
      expect(await ok<{ version: string }[]>('-j list anklet-vm-x')).toMatchObject([{ version: '6c14r' }]);
      expect(await ok('-j registry list --local')).toMatchObject([{ name: 'anklet-vm-x', latest: '6c14r' }]);
      await ok('-j delete --yes anklet-vm-x');
      for (const line of [
        'registry list',
        'registry --remote http://r:8089 list',
        `registry show ${uuid}`,
        `registry show ${uuid} --tag v1`,
        `registry pull --shrink ${uuid} --tag v1`,
        `pull ${uuid} --check-download-size --tag v1`,
        `pull ${uuid} --check-download-size http://r:8089`,
        `push ${uuid} --tag 6c14r`,
        `push -f -t 6c14r ${uuid} http://r:8089`,
        `pull ${uuid}`,
        `registry -a http://r pull ${uuid}`,
        `registry -r http://r show ${uuid} tag`,
        `registry -r http://r revert ${uuid} -t v1 --yes`,
      ])
        expect(await json(`-j ${line}`), line).toMatchObject({ status: 'ERROR', code: 27 });
      expect((await send('config vm_lib_dir')).stdout).toBe(`${join(anka.home, 'vms')}\n`);
    });

    test('drone and Harness: `show VM ip` fails until there is an address', async () => {
      await ok('-j clone base drone');
      const absent = await send('show drone ip');
      expect([absent.status === 0, absent.stdout, absent.stderr]).toEqual([false, '', 'anka: no IP address yet\n']);
      expect((await send('show drone mac')).stderr).toBe('anka: no MAC address yet\n');
      await ok('--machine-readable start drone');
      const ip = await until('an address', async () => {
        const r = await send('show drone ip');
        return r.status === 0 ? r.stdout.trim() : null;
      });
      expect(ip).toMatch(/^192\.168\.64\.\d+$/);
      writeFileSync(join(w.dir, 'x.sh'), 'echo from x\n');
      const { uuid } = await show<{ uuid: string }>('drone');
      expect((await send(`cp ${join(w.dir, 'x.sh')} ${uuid}:/tmp/x.sh`)).status).toBe(0);
      expect((await send(`run ${uuid} bash /tmp/x.sh`)).stdout).toBe('from x\n');
      expect((await send(`delete --yes ${uuid}`)).status, 'of a running VM').toBe(0);
    });

    test('scripts: columns, JSON paths, settings, labels, ports, tags, options of `run` and `cp`', async () => {
      await ok('-j clone base A');
      expect(
        (await send('list')).stdout
          .split('\n')
          .find((l) => l.includes('| A '))
          ?.split('|')[2]
          ?.trim(),
      ).toBe((await show<{ uuid: string }>('A')).uuid);
      expect((await ok<{ data_size: number }>('-j show A disk')).data_size).toBeGreaterThan(0);
      expect((await send('show A disk size')).stdout).toBe('1 GiB\n');
      expect(await ok('-j show A cpu')).toMatchObject({ cores: 1 });
      expect((await send('clone A B C')).stdout.match(/vm cloned with uuid/g)).toHaveLength(2);
      expect((await send('list -s')).stdout).toContain('| C ');
      expect(await ok('-j list --field name --field version A B')).toEqual([{ name: 'A' }, { name: 'B' }]);
      expect(await ok('-j list --field name,status=running')).toEqual([]);
      for (const [line, text] of [
        ['modify A network --mode bridge', ''],
        ['modify A network -v 0', ''],
        ['modify A network -t nat', ''],
        ['modify A set network-card -t bridge -b auto', ''],
        ['modify A set network-card -t shared -m auto', ''],
        ['modify A set network-card --direct-mac', '--direct-mac has no effect'],
        ['modify A set network-card -n', ''],
        ['modify A delete network', ''],
        ['modify A add network', ''],
        ['modify A port ssh 22', ''],
        ['modify A port ssh --set-name s2', ''],
        ['modify A port other 22:0.0.0.0:50022', ''],
        ['modify A add port third -g 22', ''],
        ['modify A add port fourth 23', ''],
        ['modify A add label a b', ''],
        ['modify A label a c', ''],
        ['modify A label only', ''],
        ['modify A name A2', ''],
        ['modify A2 set name A', ''],
        ['modify A disk -s 3G', ''],
        ['modify A add port-forwarding service -g 9079', ''],
        ['config -l', ''],
        ['config portfwd_base 40000', ''],
        ['config -r portfwd_base', ''],
        ['license activate -f KEY', 'no license is needed'],
        ['usb list', ''],
        ['log', ''],
      ] as const) {
        const r = await send(line);
        expect(r.status, `${line}: ${r.stderr}`).toBe(0);
        expect(r.stderr, line).toContain(text);
      }
      expect(await ok('-j show A label')).toEqual({ a: 'c', only: '' });
      expect((await send('show A label a')).stdout).toBe('c\n');
      expect(await ok<{ name: string }[]>('-j show A port')).toMatchObject([
        { name: 's2' },
        { name: 'other', host_port: 50022 },
        { name: 'third' },
        { name: 'fourth', guest_port: 23 },
        { name: 'service' },
      ]);
      expect((await send('modify A delete port -a')).status).toBe(0);
      expect(await ok('-j show A port')).toEqual([]);
      expect((await send('modify A delete label -a')).status).toBe(0);
      expect((await show<{ hard_drive: number }>('A')).hard_drive).toBe(3 * 2 ** 30);
      expect((await json('-j modify A disk -s 2G')).message).toContain('a disk can only grow');
      for (const [line, sentence] of [
        ['view A', 'there is no display'],
        ['attach A usb1', 'USB devices are not passed'],
        ['export A a.tar', 'anka clone'],
        ['modify A add disk -s 1G', 'a VM has one disk'],
      ] as const)
        expect(await json(`-j ${line}`), line).toMatchObject({ status: 'ERROR', message: expect.stringContaining(sentence) });

      expect((await send('start -v A')).stderr).toContain('there is no display');
      expect((await json('-j modify A set disk -s 9G')).message).toContain("run 'anka stop A'");
      expect((await send('run -D /tmp A pwd')).stdout).toBe('/tmp\n');
      expect((await send('run -w /nowhere A pwd')).status).toBe(1);
      expect((await send('run -q A env')).stdout).toBe('');
      const file = join(w.dir, 'F');
      writeFileSync(file, 'FROM_FILE=1\n');
      expect((await send(`run -f ${file} A env`)).stdout).toContain('FROM_FILE=1\n');
      const bad = join(w.dir, 'bad');
      writeFileSync(bad, 'GOOD=1\n2BAD=1\n');
      expect((await send(`run -f ${bad} A env`)).stderr).toContain('line 2');
      const background = await send('run -b A sleep 77');
      expect(await inGuest('A', `tr '\\0' ' ' </proc/${background.stdout.trim()}/cmdline`)).toBe('sleep 77 ');
      expect((await send(`run -b -f ${file} A sh -c 'env >/tmp/background'`)).status).toBe(0);
      await until('its variables are set in the background', async () => (await inGuest('A', 'cat /tmp/background || true')).includes('FROM_FILE=1\n'));
      expect((await send('reboot -f A')).status).toBe(0);
      writeFileSync(join(w.dir, 'a'), 'new');
      expect((await send(`cp -v ${join(w.dir, 'a')} A:b`)).stderr).toContain('a');
      expect((await send(`cp -n ${file} A:b`)).status).toBe(0);
      expect(await inGuest('A', 'cat b')).toBe('new');
      expect((await send(`cp ${w.dir} A:`)).stderr).toContain('is a directory; use -r');
      expect((await send(`cp A:/tmp ${w.dir}`)).stderr).toContain('is a directory; use -r');
      expect((await send('stop A --force')).status).toBe(0);

      expect((await send('push --local -t v1 A')).status).toBe(0);
      expect((await send('clone -t v1 A fromtag')).status).toBe(0);
      expect((await show<{ hard_drive: number }>('fromtag')).hard_drive).toBe(3 * 2 ** 30);
      expect((await send('delete --yes -t v1 A')).status).toBe(0);
      expect((await json('-j clone -t v1 A x')).message).toContain("no local tag 'v1'");
      expect((await send('delete --yes nosuch', { env: { ANKA_DELETE_IGNORE_ABSENT: '1' } })).status).toBe(0);
      expect((await send('create -m 128M -c 1 -d 1G envvm', { env: { ANKA_NETWORK_MODE: 'host', ANKA_NETWORK_CONTROLLER: 'virtio-net' } })).status).toBe(0);
      expect(await ok('-j show envvm network')).toMatchObject({ type: 'host' });
      expect((await send('delete --yes A B C fromtag envvm')).status).toBe(0);
    });

    test('crypt: a mount, a filter by standard input, isolation while ssh from the host goes on', async () => {
      await ok('-j clone base crypt');
      await ok('-j start crypt');
      const ip = await anka.address('crypt');
      expect((await send('run crypt ping -c1 -W5 10.9.0.1')).status).toBe(0);
      const rules = `pass in from 192.168.64.1 to any port 22\nblock out to 10.9.0.1\n`;
      expect((await send('modify crypt network -f-', { input: rules })).status).toBe(0);
      expect((await send('show crypt network -f')).stdout).toBe(rules);
      expect((await send('run crypt ping -c1 -W2 10.9.0.1')).status).toBe(1);
      const bad = await send('modify crypt network -f-', { input: 'block any\nblok in\n' });
      expect([bad.status === 0, bad.stderr]).toEqual([false, expect.stringContaining('line 2')]);
      expect((await send('show crypt network -f')).stdout, 'a bad file changes nothing').toBe(rules);
      const session = w.host.spawn(['sh', '-c', `exec ${anka.commandLine("run crypt sh -c 'while read l; do echo got $l; done'")}`], {}, 'pipe');
      let heard = '';
      session.stdout?.on('data', (d: Buffer) => {
        heard += d.toString();
      });
      session.stdin?.write('one\n');
      await until('the session answers', () => heard.includes('got one'));
      expect((await send('modify crypt network --no-local')).status).toBe(0);
      session.stdin?.write('two\n');
      await until('it goes on', () => heard.includes('got two'));
      session.stdin?.end();
      expect((await send('modify crypt network -f off')).status).toBe(0);
      expect((await send('run crypt ping -c1 -W5 10.9.0.1')).status).toBe(0);
      expect(ip).toMatch(/^192\.168\.64\./);
      await ok('-j delete --yes crypt');
    });

    test('a guest that sends a hostile archive writes nothing outside the destination', async () => {
      await ok('-j clone base evil');
      await ok('-j start evil');
      const secret = join(w.dir, 'secret');
      mkdirSync(secret);
      writeFileSync(join(secret, 'file'), 'untouched');
      // its tar answers with an archive of our making: a link out of the tree, and a file behind it
      const make = join(w.dir, 'evil');
      mkdirSync(join(make, 'sub'), { recursive: true });
      symlinkSync(secret, join(make, 'out'));
      writeFileSync(join(make, 'suid'), 'x');
      chmodSync(join(make, 'suid'), 0o4755);
      mkdirSync(join(w.dir, 'second/out'), { recursive: true });
      writeFileSync(join(w.dir, 'second/out/file'), 'overwritten');
      w.host.run(
        `cd ${make} && tar -cf ${w.dir}/evil.tar ./out ./suid && cd ../second && tar -rPf ${w.dir}/evil.tar out/file --transform 's,^out/file,../escaped,;' && tar -rf ${w.dir}/evil.tar out/file`,
      );
      await ok(`-j cp ${w.dir}/evil.tar evil:/tmp/evil.tar`);
      await inGuest('evil', "printf '#!/bin/sh\\nexec cat /tmp/evil.tar\\n' >/usr/local/bin/tar; chmod 755 /usr/local/bin/tar; mkdir /tmp/d");
      const destination = join(w.dir, 'into');
      mkdirSync(destination);
      // a login whose PATH begins with the fake tar
      for (let i = 0; i < 2; i++) await send(`cp -a evil:/tmp/d/. ${destination}`);
      expect(readFileSync(join(secret, 'file'), 'utf8')).toBe('untouched');
      expect(readdirSync(w.dir)).not.toContain('escaped');
      const suid = lstatSync(join(destination, 'suid'), { throwIfNoEntry: false });
      if (suid) expect(suid.mode & 0o6000).toBe(0);
      await ok('-j delete --yes evil');
    });
  });
}
