/**
 * B91, B15, B92: spoofed frames of a real guest, on the wire, on both engines. The table is the contract's (spoofs.ts),
 * which tests each frame separately; here a real Linux behind QEMU sends them all, and neither another guest, the host
 * nor the outside receives any; the counters count every one.
 */
import { randomBytes } from 'node:crypto';
import { chownSync, readFileSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ipv4Packet } from '../contract/guest-tools.ts';
import { HELD, NOT_CARRIED, NOT_LEAVING, SPOOFS, type Spoof, type SpoofWorld } from '../contract/spoofs.ts';
import { Anka } from '../world/anka.ts';
import { sayingGuest } from '../world/guest-image.ts';
import { ORDINARY } from '../world/remote-engine.ts';
import { Sniffer } from '../world/sniffer.ts';
import { missing, until, World } from '../world/world.ts';

const ENGINES = [
  { kind: 'kernel' as const, needs: missing('root', 'netns', 'tun', 'qemu', 'cc') },
  { kind: 'user' as const, needs: missing('root', 'netns', 'qemu', 'cc') },
];
const SUITES = ENGINES.map((t) => [`${t.kind} engine${t.needs === null ? '' : ` (${t.needs})`}`, t] as const);
const OUTSIDE = '10.9.0.1';
const newToken = (): string => randomBytes(8).toString('hex');

describe.each(SUITES)('a real guest cannot spoof: %s', (_name, t) => {
  let w: World;
  let anka: Anka;
  let captureFile: string;

  beforeAll(async () => {
    if (t.needs !== null) return;
    w = new World('sv-');
    anka = new Anka(w, sayingGuest(w.dir), { ordinary: t.kind === 'user' });
    for (const vm of ['vm1', 'vm2']) {
      await anka.ok(`create -m 192M -c 1 -d 1G ${vm}`);
      await anka.ok(`start ${vm}`);
    }
    captureFile = join(w.dir, 'capture.pcapng');
    writeFileSync(captureFile, '');
    if (t.kind === 'user') chownSync(captureFile, ORDINARY, ORDINARY);
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  const metrics = (): Promise<string> =>
    new Promise((resolve, reject) => {
      get({ socketPath: join(anka.home, 'run/ankad.sock'), path: '/metrics' }, (response) => {
        let text = '';
        response.on('data', (d: Buffer) => {
          text += d.toString();
        });
        response.on('end', () => resolve(text));
      }).on('error', reject);
    });
  const card = async (vm: string): Promise<{ mac: string; ip: string; drops: Record<string, number> }> => {
    const ip = await anka.address(vm);
    const { mac } = await anka.body<{ mac: string }>(`show ${vm}`);
    const text = await metrics();
    const drops = [...text.matchAll(/anka_nic_drops_total\{vm="(\w+)",reason="(\w+)"\} (\d+)/g)].filter((m) => m[1] === vm);
    return { mac: mac.replaceAll(':', ''), ip, drops: Object.fromEntries(drops.map((m) => [m[2] as string, Number(m[3])])) };
  };

  /** Frames that may reach the gateway's interface, which is the host's. */
  const toGateway = new Set<Spoof>([...NOT_CARRIED, ...NOT_LEAVING]);

  /**
   * Sends all spoofed frames and checks what the stations received. `bridge`: the interface of the gateway, on the
   * kernel engine.
   */
  async function sendSpoofs(spoofs: readonly Spoof[], gateway: SpoofWorld['gateway'], elsewhere: string, bridge: string): Promise<void> {
    const [me, other] = [await card('vm1'), await card('vm2')];
    const at: SpoofWorld = { me, other, gateway, elsewhere, outside: OUTSIDE };
    const capture = w.host.spawn(['sh', '-c', `${anka.commandLine('capture vm2')} >${captureFile} 2>&2`]);
    const received = (token: string): boolean => readFileSync(captureFile).includes(Buffer.from(token, 'hex'));
    const devices = t.kind === 'kernel' ? ['en0', 'lo', 'anka-shared', 'anka-host'] : ['en0', 'lo'];
    const sniffers = new Map<string, Sniffer>([['outside', await Sniffer.start(w, w.outside, 'ext0')]]);
    for (const device of devices) sniffers.set(device, await Sniffer.start(w, w.host, device));
    const lines = (frames: readonly string[]) => ({ input: frames.map((f) => `${f}\n`).join('') });
    const broadcast = me.ip.replace(/\d+$/, '255');
    const validFrame = (token: string): string => `ffffffffffff${me.mac}0800${ipv4Packet(me.ip, broadcast, 17, `0fa00fa100100000${token}`)}`;
    await until('vm2 receives frames from vm1', async () => {
      const token = newToken();
      await anka.run(['run', 'vm1', '/bin/say'], lines([validFrame(token)]));
      return received(token);
    });
    const held = `60000000001011ff${HELD}ff02${'0'.repeat(27)}10fa00fa100100000${newToken()}`;
    expect((await anka.run(['run', 'vm2', '/bin/say'], lines([`333300000001${other.mac}86dd${held}`]))).status).toBe(0);

    const before = (await card('vm1')).drops;
    const end = newToken();
    const attempts = spoofs.map((s) => ({ s, token: newToken(), valid: newToken() }));
    const frames = attempts.flatMap(({ s, token, valid }) => [s.frame(at, token), ...(s.valid ? [s.valid(at, valid)] : [])]);
    const sent = await anka.run(['run', 'vm1', '/bin/say'], lines([...frames, validFrame(end)]));
    expect(sent.status, sent.stderr).toBe(0);
    await until('vm2 receives the last frame', () => received(end));

    const expected = new Map<string, number>();
    for (const { s } of attempts) {
      const reason = typeof s.reason === 'string' ? s.reason : s.reason[t.kind];
      if (reason !== null) expected.set(reason, (expected.get(reason) ?? 0) + 1);
    }
    await until('all are counted', async () => {
      const { drops } = await card('vm1');
      return [...expected].every(([reason, n]) => (drops[reason] ?? 0) - (before[reason] ?? 0) >= n);
    });
    const { drops } = await card('vm1');
    expect(Object.fromEntries([...expected.keys()].map((r) => [r, (drops[r] ?? 0) - (before[r] ?? 0)]))).toEqual(Object.fromEntries(expected));
    for (const { s, token, valid } of attempts) {
      expect(received(token), `vm2 sees ${s.what}`).toBe(false);
      for (const [where, sniffer] of sniffers) if (where !== bridge || !toGateway.has(s)) expect(sniffer.sees(token), `${where} sees ${s.what}`).toBe(false);
      if (s.valid && !toGateway.has(s)) expect(received(valid), `vm2 sees the valid form of ${s.what}`).toBe(true);
    }
    capture.kill('SIGINT');
    console.log(`    ${attempts.length} spoofed frames, ${[...expected.values()].reduce((a, b) => a + b, 0)} drops counted for ${expected.size} reasons`);
  }

  test.skipIf(t.needs !== null)('B91, B92: on the shared network', () =>
    sendSpoofs([...SPOOFS, ...NOT_CARRIED], { mac: '5a4545004001', ip: '192.168.64.1' }, '192.168.128.77', 'anka-shared'),
  );
  test.skipIf(t.needs !== null)('B15: nothing leaves the host network', async () => {
    for (const vm of ['vm1', 'vm2']) await anka.ok(`modify ${vm} set network-card -t host`);
    await sendSpoofs([...NOT_CARRIED, ...NOT_LEAVING], { mac: '5a4545008001', ip: '192.168.128.1' }, '192.168.64.77', 'anka-host');
  });
});
