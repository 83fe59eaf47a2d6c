/** Disk images that somebody else has made: what anka reads of them, as root and as an ordinary user. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, World } from '../world/world.ts';

const why = missing('root', 'netns', 'qemu');

describe.skipIf(why !== null).each(['root', 'an ordinary user'])(`images of others, as %s${why ? ` (${why})` : ''}`, (who) => {
  let w: World;
  let anka: Anka;
  const file = (name: string): string => join(w.dir, name);
  const qemuImg = (...words: string[]): void => void execFileSync('qemu-img', words, { stdio: 'ignore' });
  const create = (image: string) => anka.run(['create', '-m', '128M', '-d', '1G', '--app', file(image), 'vm1']);

  /** A qcow2 image whose header holds these numbers at these offsets. */
  function patched(name: string, changes: [offset: number, value: bigint, bytes: 4 | 8][], text = ''): void {
    qemuImg('create', '-q', '-f', 'qcow2', file(name), '64M');
    const image = readFileSync(file(name));
    for (const [at, value, bytes] of changes) bytes === 8 ? image.writeBigUInt64BE(value, at) : image.writeUInt32BE(Number(value), at);
    image.write(text, 600);
    writeFileSync(file(name), image);
  }

  beforeAll(() => {
    w = new World(who === 'root' ? 'ir-' : 'io-');
    anka = new Anka(w, tinyGuest(), { ordinary: who !== 'root' });
    chmodSync(w.dir, 0o755);
    qemuImg('create', '-q', '-f', 'raw', file('secret.img'), '1M');
    const json = 'json:{"driver":"file","filename":"/etc/shadow"}';
    const backing = (name: string): [number, bigint, 4 | 8][] => [
      [8, 600n, 8],
      [16, BigInt(name.length), 4],
    ];
    patched('json.qcow2', backing(json), json);
    patched('net.qcow2', backing('nbd://198.51.100.1/x'), 'nbd://198.51.100.1/x');
    patched('data.qcow2', [[72, 4n, 8]]);
    patched('table.qcow2', [[36, 0xffffffffn, 4]]);
    patched('counts.qcow2', [[56, 0xffffffffn, 4]]);
    w.host.run(`mkfifo -m 666 ${file('fifo.qcow2')}`);
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test.each<[image: string, error: RegExp]>([
    ['json.qcow2', /refers to another file \(json:\{"driver":"file","filename":"\/etc\/shadow"\}\), which a guest must not read/],
    ['net.qcow2', /refers to another file \(nbd:\/\/198\.51\.100\.1\/x\), which a guest must not read/],
    ['data.qcow2', /refers to another file, which a guest must not read/],
    ['table.qcow2', /cannot be used: its first table has 4294967295 entries/],
    ['counts.qcow2', /cannot be used: its reference counts cannot be read/],
    ['fifo.qcow2', /is a directory or device, not a disk image/],
  ])('B92: %s is refused', async (image, error) => {
    const { status, stderr } = await create(image);
    expect(stderr).toMatch(error);
    expect(status).toBe(11);
  });

  test('B92: an image that names another file since the VM was created is not opened', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', file('good.qcow2'), '64M');
    expect(await create('good.qcow2')).toMatchObject({ status: 0 });
    qemuImg('rebase', '-u', '-F', 'raw', '-b', file('secret.img'), file('good.qcow2'));
    const { status, stderr } = await anka.run(['start', 'vm1']);
    expect(stderr).toMatch(/good\.qcow2' refers to another file/);
    expect(status).toBe(11);
    await anka.ok('delete --yes vm1');
  });

  // root's daemon finds its programs in the system's directories
  test.skipIf(who === 'root')('B92: qemu-img opens no image: it only creates new disks', async () => {
    await anka.ok('daemon stop');
    mkdirSync(file('bin'));
    const calls = file('calls');
    writeFileSync(calls, '');
    chmodSync(calls, 0o666);
    writeFileSync(file('bin/qemu-img'), `#!/bin/sh\necho "$@" >>${calls}\nPATH=/usr/local/bin:/usr/bin:/bin exec qemu-img "$@"\n`);
    chmodSync(file('bin/qemu-img'), 0o755);
    qemuImg('create', '-q', '-f', 'qcow2', file('whole.qcow2'), '64M');
    anka.env['PATH'] = `${file('bin')}:${process.env['PATH']}`;
    expect(await create('whole.qcow2')).toMatchObject({ status: 0 });
    await anka.ok('start vm1');
    await anka.ok('clone vm1 vm2');
    await anka.ok('stop -f vm1');
    await anka.ok('clone vm1 vm3');
    const lines = readFileSync(calls, 'utf8').trim().split('\n');
    expect(lines).toHaveLength(2);
    for (const line of lines) expect(line).toMatch(/^create -q -u -f qcow2 -F qcow2 -b \S+whole\.qcow2 \S+\.part 1073741824$/);
  });

  test('B6: a VM whose disk another program uses is not deleted', async () => {
    await anka.ok('create -m 128M -d 1G held');
    const uuid = (await anka.ok('show held uuid')).trim();
    const disk = join(anka.home, 'vms', uuid, 'disk.qcow2');
    const holder = w.host.spawn([
      'python3',
      '-c',
      `import fcntl, struct, time; f = open('${disk}', 'r+b'); fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0)); print('held', flush=True); time.sleep(1e6)`,
    ]);
    await once(holder.stdout as NodeJS.ReadableStream, 'data');
    const refused = await anka.run(['delete', '--yes', 'held']);
    expect([refused.status, refused.stderr]).toEqual([6, expect.stringContaining(`${disk} is used by another process; run 'fuser -v ${disk}'`)]);
    expect((await anka.ok('show held status')).trim()).toBe('stopped');
    await anka.killDaemon();
    expect((await anka.ok('show held status')).trim()).toBe('stopped');
    holder.kill();
    await once(holder, 'exit');
    await anka.ok('delete --yes held');
    expect(existsSync(disk)).toBe(false);
  });
});
