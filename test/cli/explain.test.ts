/** B93: the commands `anka explain` and `anka doctor`, with a real guest. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');

describe.skipIf(why !== null)(`explain by the command${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let anka: Anka;
  let ip = '';

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('ec-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 128M -d 1G vm1');
  }, 600_000);
  afterAll(async () => {
    if (!w) return;
    await anka.run(['stop', '-f', 'vm1']);
    await anka.killDaemon();
    w.close();
  });

  test('B84: a VM that is not running, and wrong usage', async () => {
    expect(await anka.run(['explain', 'vm1', 'to', '1.2.3.4'])).toMatchObject({
      status: 4,
      stderr: expect.stringMatching(/vm1 has no network while it is stopped; run 'anka start vm1' first\n$/),
    });
    expect((await anka.run(['explain', 'vm1', '1.2.3.4'])).status).toBe(2);
    expect((await anka.run(['explain', 'none', 'to', '1.2.3.4'])).status).toBe(3);
    expect((await anka.run(['help', 'explain'])).stdout).toContain('from ADDR[:PORT]');
  });

  test('B93: a running VM: as text and as one line of JSON', async () => {
    await anka.ok('modify vm1 add port-forwarding -g 22 -p 10022 ssh');
    await anka.ok('start vm1');
    ip = await anka.address('vm1');
    const out = await anka.ok('explain vm1 to 198.51.100.1:443');
    expect(out.split('\n')[0]).toBe(`tcp ${ip} → 198.51.100.1:443`);
    expect(out).toContain('allowed: leaves by en0 through NAT');
    expect(out).toContain('decided by: masquerade');
    expect(await anka.body('explain vm1 from 10.9.0.1 to vm1:22')).toMatchObject({ verdict: 'dropped', rule: 'isolation from outside' });
    expect(await anka.body('explain vm1 from 10.9.0.1 to 10.9.0.2:10022')).toMatchObject({
      verdict: 'allowed',
      rule: "port forwarding 'ssh' of vm1",
      translated: true,
      arrives: [{ at: 'vm1', source: '10.9.0.1', destination: ip, port: 22 }],
    });
    expect((await anka.run(['explain', 'vm1', 'to', '1.2.3.4:70000'])).stderr).toContain("to '1.2.3.4:70000' must be an address");
  }, 600_000);

  test('B93: doctor reports a problem and exits with 1', async () => {
    w.setResolver('10.9.0.99');
    const r = await until('doctor reports the resolver', async () => {
      const x = await anka.run(['doctor']);
      return x.stdout.includes('10.9.0.99') ? x : null;
    });
    expect(r.stdout).toMatch(/ERROR {3}resolver 10\.9\.0\.99 from \/etc\/resolv\.conf does not answer.*\n {8}to fix it: /);
    expect(r.status).toBe(1);
  });
});
