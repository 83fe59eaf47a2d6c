/**
 * B91, B92, B15: a forbidden frame reaches nobody and is counted by reason; its valid counterpart arrives. Both
 * engines, frame by frame (spoofs.ts).
 *
 * After each frame its sender sends a valid one: once another guest has received that, the frame before has had its
 * effect.
 */
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { FrameSender, Sniffer } from '../world/sniffer.ts';
import { type Namespace, until, World } from '../world/world.ts';
import { dhcp, guest, ipv4Packet, macText, nic, state, vmId } from './guest-tools.ts';
import { HELD, linkLocal, NOT_CARRIED, NOT_LEAVING, SPOOFS, type Spoof, type SpoofWorld } from './spoofs.ts';

const SUITES = onBothEngines();
const OUTSIDE = '10.9.0.1';
const GATEWAYS = { shared: { mac: '5a4545004001', ip: '192.168.64.1' }, host: { mac: '5a4545008001', ip: '192.168.128.1' } };
const macHex = (n: number): string => macText(n).replaceAll(':', '');
const newToken = (): string => randomBytes(8).toString('hex');

describe.each(SUITES)('a guest sends only with its own addresses: %s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  const vms = new Map<number, Namespace>();
  const ips = new Map<number, string>();
  const sniffers = new Map<string, Sniffer>();
  const senders = new Map<number, FrameSender>();
  /** Sends on the host's uplink. */
  let uplink: FrameSender;
  const send = (n: number, ...frames: string[]): void => senders.get(n)?.send(frames);

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('sp-');
    const desired = state(nic(1), nic(2), nic(3, 'host'), nic(4, 'host'));
    if (t.kind === 'kernel') for (const n of [1, 2, 3, 4]) vms.set(n, guest(w, n));
    e = new RemoteEngine(w, t.kind);
    expect(await e.apply(desired)).toEqual([]);
    if (t.kind === 'user') for (const n of [1, 2, 3, 4]) vms.set(n, await shimmedGuest(w, `g${n}`, macText(n), (await e.openNic(vmId(n))).path));
    for (const n of [1, 2, 3, 4]) ips.set(n, (await dhcp(w, vms.get(n) as Namespace))?.ip ?? '');
    await until('all addresses are known', async () => (await e.observe()).nics.every((x) => x.ip !== null));
    for (const [n, ns] of vms) {
      sniffers.set(`vm${n}`, await Sniffer.start(w, ns, 'eth0', 'in'));
      senders.set(n, new FrameSender(ns, 'eth0'));
    }
    uplink = new FrameSender(w.host, 'en0');
    const hostDevices = t.kind === 'kernel' ? ['anka-shared', 'anka-host', 'en0', 'lo'] : ['en0', 'lo'];
    for (const device of hostDevices) sniffers.set(`host ${device}`, await Sniffer.start(w, w.host, device));
    sniffers.set('outside', await Sniffer.start(w, w.outside, 'ext0'));
    // the second shared guest takes an IPv6 address that is not derived from a MAC
    const token = newToken();
    const held = `60000000001011ff${HELD}ff02${'0'.repeat(27)}10fa00fa100100000${token}`;
    send(2, `333300000001${macHex(2)}86dd${held}`);
    await until('its address is received', () => sniffers.get('vm1')?.sees(token));
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  const drops = async (n: number): Promise<Record<string, number>> => (await e.stats()).find((x) => x.id === vmId(n))?.drops ?? {};
  /** A valid broadcast with a token. */
  const validFrame = (n: number, token: string): string => {
    const broadcast = `${(ips.get(n) as string).split('.').slice(0, 3).join('.')}.255`;
    const payload = `0fa00fa10010${'0000'}${token}`;
    return `ffffffffffff${macHex(n)}0800${ipv4Packet(ips.get(n) as string, broadcast, 17, payload)}`;
  };

  /** `toGateway`: the frame may reach the gateway's interface on the host. */
  async function attempt(s: Spoof, n: number, neighbour: number, world: SpoofWorld, toGateway = false): Promise<void> {
    const reason = typeof s.reason === 'string' ? s.reason : s.reason[t.kind];
    const [spoofed, valid, end, last] = [newToken(), newToken(), newToken(), newToken()];
    const before = await drops(n);
    send(n, s.frame(world, spoofed), ...(s.valid ? [s.valid(world, valid)] : []), validFrame(n, end));
    const bridge = `host anka-${n < 3 ? 'shared' : 'host'}`;
    for (const name of [`vm${neighbour}`, ...(t.kind === 'kernel' ? [bridge] : [])]) await until(`${name} hears vm${n}`, () => sniffers.get(name)?.sees(end));
    uplink.send([`ffffffffffff56454500ffff88b5${last}${'00'.repeat(40)}`]);
    for (const name of ['host en0', 'outside']) await until(`${name} hears the host`, () => sniffers.get(name)?.sees(last));
    if (s.valid) await until('the valid form arrives', () => [...sniffers].some(([name, sniffer]) => name !== `vm${n}` && sniffer.sees(valid)));
    await until(`${reason} is counted`, async () => ((await drops(n))[reason] ?? 0) > (before[reason] ?? 0));
    const after = await drops(n);
    const news = Object.entries(after).flatMap(([name, count]) => (count === (before[name] ?? 0) ? [] : [[name, count - (before[name] ?? 0)]]));
    expect(Object.fromEntries(news)).toEqual({ [reason]: 1 });
    for (const [name, sniffer] of sniffers)
      if (name !== `vm${n}` && (!toGateway || name !== bridge)) expect(sniffer.sees(spoofed), `seen by ${name}`).toBe(false);
  }

  const world = (n: number, other: number): SpoofWorld => {
    const shared = n < 3;
    return {
      me: { mac: macHex(n), ip: ips.get(n) as string },
      other: { mac: macHex(other), ip: ips.get(other) as string },
      gateway: shared ? GATEWAYS.shared : GATEWAYS.host,
      elsewhere: ips.get(shared ? 3 : 1) as string,
      outside: OUTSIDE,
    };
  };

  test.each(SPOOFS)('B91: $what', (s) => attempt(s, 1, 2, world(1, 2)));
  test.each(NOT_CARRIED)('B91, B92: shared: $what', (s) => attempt(s, 1, 2, world(1, 2), true));
  test.each([...NOT_CARRIED, ...NOT_LEAVING])('B15, B92: host: $what', (s) => attempt(s, 3, 4, world(3, 4), true));

  test('B91: the sniffers work: a valid packet to the outside is captured on its whole path', async () => {
    const token = newToken();
    const packet = ipv4Packet(ips.get(1) as string, OUTSIDE, 17, `0fa00fa10010${'0000'}${token}`);
    send(1, `${GATEWAYS.shared.mac}${macHex(1)}0800${packet}`);
    for (const name of ['outside', 'host en0', ...(t.kind === 'kernel' ? ['host anka-shared'] : [])])
      await until(`${name} sees it`, () => sniffers.get(name)?.sees(token));
  });

  test('B91, B92, B20: frames that no bridge forwards reach no program on the host either', async () => {
    if (t.kind === 'user') return; // there the host's stack never has a guest's frame
    const program = `for (const type of ['udp4', 'udp6']) { const s = require('dgram').createSocket({ type, ipv6Only: type === 'udp6' }); s.on('message', (m) => console.log(m.toString('hex'))); s.bind(4001, () => console.log('ready')); }`;
    const listener = w.host.spawn([process.execPath, '-e', program]);
    let heard = '';
    listener.stdout?.on('data', (d: Buffer) => {
      heard += d.toString();
    });
    await until('it listens', () => heard.split('ready').length === 3);
    const ask = (destination: string, to: string, token: string): string =>
      `${destination}${macHex(1)}0800${ipv4Packet(ips.get(1) as string, to, 17, `0fa00fa10010${'0000'}${token}`)}`;
    const ask6 = (destination: string, token: string): string =>
      `${destination}${macHex(1)}86dd60000000001011ff${linkLocal(macHex(1))}ff02${'0'.repeat(27)}10fa00fa100100000${token}`;
    const [spoofed, spoofed6, valid] = [newToken(), newToken(), newToken()];
    const plugged = state(nic(1), nic(2), nic(3, 'host'), nic(4, 'host'));
    send(1, ask('0180c200000e', '10.9.0.2', spoofed), ask6('0180c200000e', spoofed6));
    expect(await e.apply({ ...plugged, nics: plugged.nics.map((n) => (n.vmName === 'vm1' ? { ...n, type: 'disconnected' } : n)) })).toEqual([]);
    const received = (): number => Number(w.host.run('cat /sys/class/net/anka00000001/statistics/rx_packets'));
    const [before, lone, lone6] = [received(), newToken(), newToken()];
    send(1, ask('ffffffffffff', '10.9.0.2', lone), ask6('333300000001', lone6));
    await until('its frames have come', () => received() >= before + 2);
    expect(await e.apply(plugged)).toEqual([]);
    await until('what is said to the host is heard', () => {
      send(1, ask(GATEWAYS.shared.mac, GATEWAYS.shared.ip, valid));
      return heard.includes(valid);
    });
    for (const token of [spoofed, spoofed6, lone, lone6]) expect(heard).not.toContain(token);
    listener.kill('SIGKILL');
  });

  test('B91: one guest cannot exhaust IPv6 addresses for another, and keeps its own', async () => {
    const speak = (n: number, address: string, token: string): string =>
      `333300000001${macHex(n)}86dd60000000001011ff${address}ff02${'0'.repeat(27)}10fa00fa100100000${token}`;
    const before = (await drops(1))['address_limit'] ?? 0;
    send(1, ...Array.from({ length: 100 }, (_, i) => speak(1, `fd00${'0'.repeat(24)}${(0x1000 + i).toString(16)}`, newToken())));
    await until('the limit is felt', async () => ((await drops(1))['address_limit'] ?? 0) - before >= 60);
    const [another, own] = [newToken(), newToken()];
    send(2, speak(2, `fd00${'0'.repeat(26)}88`, another));
    send(1, speak(1, linkLocal(macHex(1)), own));
    await until('another takes one', () => sniffers.get('vm1')?.sees(another));
    await until('its own is its own', () => sniffers.get('vm2')?.sees(own));
  });

  test('B91, B90: new rules keep held addresses and counters; a detached card holds nothing', async () => {
    const before = await drops(1);
    expect(await e.apply(state(nic(1), nic(2, 'shared', { isolated: true }), nic(3, 'host'), nic(4, 'host')))).toEqual([]);
    const taken = SPOOFS.find((s) => s.what === 'an IPv6 address that another VM holds') as Spoof;
    expect(await e.apply(state(nic(1), nic(2), nic(3, 'host'), nic(4, 'host')))).toEqual([]);
    for (const [reason, count] of Object.entries(before)) expect((await drops(1))[reason], reason).toBeGreaterThanOrEqual(count);
    await attempt(taken, 1, 2, world(1, 2));
    if (t.kind === 'user') return; // there a card is unplugged when its QEMU ends
    expect(await e.apply(state(nic(1), nic(2, 'disconnected'), nic(3, 'host'), nic(4, 'host')))).toEqual([]);
    expect(await e.apply(state(nic(1), nic(2), nic(3, 'host'), nic(4, 'host')))).toEqual([]);
    expect(w.host.run(`nft list set bridge anka own6_shared`)).not.toContain(HELD);
  });

  test('B91: the guest’s valid traffic still passes', () => (vms.get(1) as Namespace).reaches('192.168.64.1'));
});
