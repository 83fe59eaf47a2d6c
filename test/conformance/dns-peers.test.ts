/**
 * Real DNS programs as upstream servers of the host, and as forwarders in guests, on both engines: unbound,
 * systemd-resolved and dnsmasq (B25). Those that are missing are skipped by name; scripts/dns-peers.sh unpacks them.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, guest, macText, nic, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';
import { addressAt, peer, RECORDS, startPeer } from './dns-peers.ts';

const SUITES = onBothEngines();
const GW = '192.168.64.1';
/** With the address of each, as an upstream server and in the guest. */
const PEERS = [
  ['unbound', '10.9.0.21', '127.0.0.21'],
  ['systemd-resolved', '10.9.0.22', '127.0.0.53'],
  ['dnsmasq', '10.9.0.23', '127.0.0.23'],
] as const;

describe.each(SUITES)('%s', (_name, t) => {
  let w: World;
  let e: RemoteEngine;
  let vm: Namespace;
  let ip = '';
  const dig = async (server: string, args: string): Promise<string> => ((await vm.ask(`dig +time=15 +tries=1 @${server} ${args}`)) ?? 'failed').trim();

  beforeEach((test) => test.skip(t.why !== null));

  beforeAll(async () => {
    if (t.why !== null) return;
    w = new World('dp-');
    for (const [, upstream] of PEERS) w.outside.run(`ip addr add ${upstream}/24 dev ext0`);
    if (peer('dnsmasq')) await startPeer('dnsmasq', { world: w, ns: w.outside, address: '10.9.0.1' });
    e = new RemoteEngine(w, t.kind);
    if (t.kind === 'kernel') vm = guest(w, 1);
    expect(await e.apply(state(nic(1)))).toEqual([]);
    if (t.kind === 'user') vm = await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path);
    ip = (await dhcp(w, vm))?.ip ?? '';
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  for (const [program, upstream] of PEERS) {
    test.skipIf(peer(program) === undefined)(`B25: ${program} as the host’s resolver${peer(program) ? '' : ' (not installed)'}`, async () => {
      await startPeer(program, { world: w, ns: w.outside, address: upstream });
      w.setResolver(upstream);
      const [name, address] = [RECORDS.name, addressAt(upstream)];
      await until('it is used', async () => (await dig(GW, `+short ${name}`)) === address);
      expect(await dig(GW, 'WWW.Example.TEST'), 'RFC 4343').toMatch(/^WWW\.Example\.TEST\.\s+\d+\s+IN\s+A\s+203\.0\.113\./m);
      expect(await dig(GW, `+tcp +short ${name}`), 'RFC 7766').toBe(address);
      expect(await dig(GW, `${name} AAAA`), 'RFC 2308: no data').toMatch(/status: NOERROR[\s\S]*ANSWER: 0/);
      expect(await dig(GW, `+noedns +short ${name}`), 'RFC 6891: without EDNS').toBe(address);
      if (program !== 'systemd-resolved') {
        const [large, text] = RECORDS.large;
        const answer = (await dig(GW, `+short ${large} TXT`)).replaceAll(/[" ]/g, '');
        expect(answer, 'RFC 7766: a large answer, by TCP').toBe(text);
      }
      const findings = await e.doctor();
      expect(findings.find((f) => f.id === 'resolver.stale')).toBeUndefined();
    });
  }

  for (const [program, , local] of PEERS) {
    test.skipIf(peer(program) === undefined || peer('dnsmasq') === undefined)(
      `B25: ${program} in a guest forwards to the gateway${peer(program) ? '' : ' (not installed)'}`,
      async () => {
        w.setResolver('10.9.0.1');
        const [name, address] = [RECORDS.name, addressAt('10.9.0.1')];
        await until('the server is used', async () => (await dig(GW, `+short ${name}`)) === address);
        const log = await startPeer(program, { world: w, ns: vm, address: local, upstream: GW });
        const ask = (args: string): Promise<string> => dig(local, args);
        expect(await ask(`+short ${name}`)).toBe(address);
        expect(await ask('+short vm1.anka.internal')).toBe(ip);
        expect(await ask('+short host.anka.internal')).toBe(GW);
        expect(await ask(`+short -x ${ip}`)).toBe('vm1.anka.internal.');
        expect(await ask('nobody.anka.internal'), 'RFC 2308: no such name').toMatch(/status: NXDOMAIN/);
        expect(await ask('vm1.anka.internal AAAA'), 'RFC 2308: no data').toMatch(/status: NOERROR[\s\S]*ANSWER: 0/);
        const names = Array.from({ length: 100 }, (_, i) => `n${i}.anka.internal`).join(' ');
        const statuses = ((await ask(names)).match(/status: \w+/g) ?? []).map(String);
        expect(statuses).toEqual(Array.from({ length: 100 }, () => 'status: NXDOMAIN'));
        expect(readFileSync(log, 'utf8'), 'it stays with EDNS').not.toMatch(/degraded feature|downgrad/i);
      },
    );
  }
});
