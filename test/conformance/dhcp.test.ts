/**
 * DHCP as clients see it on the wire (RFC 2131, 2132, 3442, 6842), and address conflict detection (RFC 5227), on both
 * engines. Messages are frames that a program builds byte by byte.
 */
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, guest, ipv4Hex, macText, nic, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';

const SUITES = onBothEngines('DHCP on the wire, ');
const GW = '192.168.64.1';
const CLIENT = fileURLToPath(new URL('dhcp-client.py', import.meta.url));
const DISCOVER = 1;
const OFFER = 2;
const REQUEST = 3;
const DECLINE = 4;
const ACK = 5;
const NAK = 6;
const RELEASE = 7;
const INFORM = 8;
/** Answers come at once, after a probe of a second; a slow machine may take longer (s). */
const ANSWER_S = 60;
/** How long no answer is waited for (s). */
const SILENCE_S = 2;

interface Message {
  type: number;
  xid?: number;
  flags?: number;
  ciaddr?: string;
  giaddr?: string;
  options?: Record<number, string>;
  unicast?: string;
}

interface Answer {
  type: number;
  to: string;
  source: string;
  destination: string;
  sourcePort: number;
  bytes: number;
  xid: number;
  flags: number;
  ciaddr: string;
  yiaddr: string;
  siaddr: string;
  giaddr: string;
  names: string;
  options: Record<string, string>;
}

describe.each(SUITES)('%s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  let vm1: Namespace;
  let vm2: Namespace;

  const send = async (m: Message, seconds = ANSWER_S, from = vm1): Promise<Answer | null> =>
    JSON.parse((await from.ask(`python3 ${CLIENT} ${seconds} '${JSON.stringify(m)}'`)) ?? 'null');
  const answered = async (m: Message, from = vm1): Promise<Answer> => {
    const a = await send(m, ANSWER_S, from);
    if (a === null) throw new Error(`no answer to ${JSON.stringify(m)}`);
    return a;
  };
  const seconds = (hex: string | undefined): number => Number.parseInt(hex ?? '0', 16);

  beforeEach((context) => context.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('tp-');
    const desired = state(nic(1), nic(2));
    if (t.kind === 'kernel') [vm1, vm2] = [guest(w, 1), guest(w, 2)];
    e = new RemoteEngine(w, t.kind);
    expect(await e.apply(desired)).toEqual([]);
    if (t.kind === 'user') {
      vm1 = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
      vm2 = await shimmedGuest(w, 'g2', macText(2), (await e.openNic(vmId(2))).path);
    }
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('RFC 2131, 4.1 and 4.3.1: an OFFER’s addresses, ports and fields; unknown options are ignored; RFC 3442: no option 121', async () => {
    const offer = await answered({
      type: DISCOVER,
      xid: 0xdeadbeef,
      flags: 0x8000,
      options: { 57: '05dc', 61: 'ff01020304', 55: '79010306', 60: '4d534654', 43: '0102', 224: 'ffff' },
    });
    expect(offer).toMatchObject({ type: OFFER, source: GW, destination: '255.255.255.255', to: 'ff:ff:ff:ff:ff:ff', sourcePort: 67 });
    expect(offer).toMatchObject({ xid: 0xdeadbeef, flags: 0x8000, ciaddr: '0.0.0.0', giaddr: '0.0.0.0', names: '' });
    expect(offer.yiaddr).toMatch(/^192\.168\.64\.(?!1$|255$)\d+$/);
    expect(offer.bytes).toBeLessThanOrEqual(548);
    expect(offer.options).toMatchObject({ 1: 'ffffff00', 3: ipv4Hex(GW), 54: ipv4Hex(GW), 61: 'ff01020304' });
    for (const code of ['50', '55', '57', '121', 'twice']) expect(offer.options).not.toHaveProperty(code);
    const [lease, t1, t2] = [51, 58, 59].map((code) => seconds(offer.options[code]));
    expect([t1, t2]).toEqual([Math.floor((lease as number) / 2), Math.floor(((lease as number) * 7) / 8)]);
    expect((await answered({ type: DISCOVER })).options, 'RFC 6842, 3: none was sent').not.toHaveProperty('61');
  });

  test('RFC 2131, 4.3.2: SELECTING, RENEWING by unicast, REBINDING by broadcast, INIT-REBOOT; RFC 6842: a NAK has the identifier', async () => {
    const { yiaddr } = await answered({ type: DISCOVER });
    const mine = ipv4Hex(yiaddr);
    const selecting = await answered({ type: REQUEST, options: { 50: mine, 54: ipv4Hex(GW) } });
    expect(selecting).toMatchObject({ type: ACK, yiaddr, ciaddr: '0.0.0.0', destination: '255.255.255.255' });
    vm1.run(`ip addr add ${yiaddr}/24 dev eth0`);
    const renewing = await answered({ type: REQUEST, ciaddr: yiaddr, unicast: GW });
    expect(renewing).toMatchObject({ type: ACK, yiaddr, ciaddr: yiaddr, destination: yiaddr, to: macText(1) });
    expect(await answered({ type: REQUEST, ciaddr: yiaddr }), 'REBINDING').toMatchObject({ type: ACK, yiaddr, ciaddr: yiaddr });
    expect(await answered({ type: REQUEST, options: { 50: mine } }), 'INIT-REBOOT').toMatchObject({ type: ACK, yiaddr });
    const nak = await answered({ type: REQUEST, options: { 50: ipv4Hex('10.0.0.5'), 61: '0102' } });
    expect(nak).toMatchObject({ type: NAK, yiaddr: '0.0.0.0', destination: '255.255.255.255', options: { 54: ipv4Hex(GW), 61: '0102' } });
    for (const code of ['1', '3', '51']) expect(nak.options).not.toHaveProperty(code);
  });

  test('RFC 2131, 4.3.5: INFORM is answered to ciaddr, without lease time and yiaddr', async () => {
    const { address } = { address: (/inet (\S+)\//.exec(vm1.run('ip -4 addr show dev eth0')) ?? [])[1] as string };
    const ack = await answered({ type: INFORM, ciaddr: address, unicast: GW });
    expect(ack).toMatchObject({ type: ACK, yiaddr: '0.0.0.0', destination: address, options: { 3: ipv4Hex(GW) } });
    for (const code of ['51', '58', '59']) expect(ack.options).not.toHaveProperty(code);
  });

  test('RFC 2131, 4.3.3 and 4.3.4: a declined address is not offered again, a released one is; neither message is answered', async () => {
    vm1.run('ip -4 addr flush dev eth0');
    const first = (await answered({ type: DISCOVER })).yiaddr;
    await answered({ type: REQUEST, options: { 50: ipv4Hex(first), 54: ipv4Hex(GW) } });
    expect(await send({ type: DECLINE, options: { 50: ipv4Hex(first), 54: ipv4Hex(GW) } }, SILENCE_S)).toBeNull();
    const second = (await answered({ type: DISCOVER, options: { 50: ipv4Hex(first) } })).yiaddr;
    expect(second).not.toBe(first);
    await answered({ type: REQUEST, options: { 50: ipv4Hex(second), 54: ipv4Hex(GW) } });
    vm1.run(`ip addr add ${second}/24 dev eth0`);
    expect(await send({ type: RELEASE, ciaddr: second, unicast: GW, options: { 54: ipv4Hex(GW) } }, SILENCE_S)).toBeNull();
    vm1.run('ip -4 addr flush dev eth0');
    expect((await answered({ type: DISCOVER })).yiaddr, 'its last address').toBe(second);
  });

  test('RFC 2131, 3.1 and 4.1: a REQUEST to another server, a relayed message and an answer get no answer', async () => {
    const silent = [
      { type: REQUEST, options: { 50: ipv4Hex('192.168.64.9'), 54: ipv4Hex('10.0.0.1') } },
      { type: DISCOVER, giaddr: '10.0.0.1' },
      { type: OFFER },
    ];
    expect(await Promise.all(silent.map((m) => send(m, SILENCE_S)))).toEqual([null, null, null]);
  });

  test('RFC 2131, 2.1 and 2.2: an address in use is not offered to another client; a lease survives the server', async () => {
    const taken = '192.168.64.150';
    vm2.run(`ip addr add ${taken}/24 dev eth0`);
    await vm2.reaches(GW);
    expect((await answered({ type: DISCOVER, options: { 50: ipv4Hex(taken) } })).yiaddr).not.toBe(taken);
    vm2.run('ip -4 addr flush dev eth0');
    const before = (await dhcp(w, vm1))?.ip as string;
    await until('the lease is known', async () => (await e.observe()).nics[0]?.ip);
    const service = t.kind === 'kernel' ? 'service-main' : 'network-main';
    const find = `for p in $(ip netns pids ${w.host.name}); do tr '\\0' ' ' </proc/$p/cmdline | grep -q '${service}[.]' && echo $p; done; true`;
    for (const pid of w.host.run(find).trim().split('\n')) process.kill(Number(pid), 'SIGKILL');
    expect((await dhcp(w, vm1))?.ip).toBe(before);
  });

  test('RFC 5227, 2.1.1 and 2.4: a probe finds the gateway and another guest, and no free address; a probe claims nothing', async () => {
    const other = (await dhcp(w, vm2))?.ip as string;
    const mine = (/inet (\S+)\//.exec(vm1.run('ip -4 addr show dev eth0')) ?? [])[1];
    vm1.run('ip -4 addr flush dev eth0');
    /** The exit status of duplicate address detection: 1 when another host has the address. */
    const detect = (address: string) => vm1.ask(`busybox arping -D -I eth0 -c 3 -w 3 ${address} >/dev/null; echo $?`);
    expect((await Promise.all([detect(GW), detect(other), detect('192.168.64.240')])).map((s) => s?.trim())).toEqual(['1', '1', '0']);
    const seen = (await e.observe()).nics.map((n) => n.addresses.map((a) => a.ip));
    expect(seen.flat()).not.toContain(0xc0a840f0);
    vm1.run(`ip addr add ${mine}/24 dev eth0`);
  });
});
