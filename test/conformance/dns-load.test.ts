/**
 * DNS under load by dnsperf, on both engines: `ANKA_DNS_SECONDS` (`npm run soak -- --only dns`) of queries by UDP and
 * TCP for our names and for names of outside, of which none may be lost, and the forwarder's memory does not grow.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { dhcp, guest, macText, nic, state, vmId } from '../contract/guest-tools.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { memoryOf, until, World } from '../world/world.ts';
import { addressAt, peer, peerEnvironment, RECORDS, startPeer } from './dns-peers.ts';

/** Of each of the four runs. */
const SECONDS = Math.ceil(Number(process.env['ANKA_DNS_SECONDS'] ?? 4) / 4);
const dnsperf = peer('dnsperf');
const SUITES = onBothEngines();
const GW = '192.168.64.1';
/** Of resident memory, from after the warm-up to the end. */
const GROWTH_BYTES = 48 << 20;
/** By UDP, a second: a guest may send 1000 (net/gateway/service-rates.ts). */
const UDP_RATE = 800;
/** Waiting at once, fewer than the forwarder keeps for a guest. */
const QUERIES_AT_ONCE = 100;

describe.each(SUITES)('%s', (_name, t) => {
  beforeEach((test) => test.skip(t.why !== null));

  test.skipIf(dnsperf === undefined || peer('dnsmasq') === undefined)(
    `B25: ${SECONDS} s of queries by dnsperf${dnsperf ? '' : ' (not installed)'}`,
    async () => {
      const w = new World('dl-');
      try {
        await startPeer('dnsmasq', { world: w, ns: w.outside, address: '10.9.0.1' });
        const e = new RemoteEngine(w, t.kind);
        const direct = t.kind === 'kernel' ? guest(w, 1) : null;
        expect(await e.apply(state(nic(1)))).toEqual([]);
        const vm = direct ?? (await shimmedGuest(w, 'g1', macText(1), (await e.openNic(vmId(1))).path));
        await dhcp(w, vm);
        await until('names resolve', async () => (await vm.ask(`dig +short @${GW} ${RECORDS.name}`))?.trim() === addressAt('10.9.0.1'));
        const queries = join(w.dir, 'queries');
        writeFileSync(queries, `${RECORDS.name} A\nvm1.anka.internal A\nhost.anka.internal A\nnobody.anka.internal A\nlocalhost AAAA\n`);
        const env = Object.entries(peerEnvironment('dnsperf')).map(([k, v]) => `${k}=${v}`);
        const run = async (mode: 'udp' | 'tcp', seconds: number): Promise<{ completed: number; lost: number; output: string }> => {
          const command = [
            'env',
            ...env,
            dnsperf,
            '-s',
            GW,
            '-d',
            queries,
            '-l',
            seconds,
            '-q',
            QUERIES_AT_ONCE,
            '-t',
            60,
            '-m',
            mode,
            '-c',
            4,
            ...(mode === 'udp' ? ['-Q', UDP_RATE] : []),
          ];
          const output = (await vm.ask(`${command.join(' ')} 2>&1`)) ?? 'failed';
          return { completed: Number(/Queries completed:\s+(\d+)/.exec(output)?.[1]), lost: Number(/Queries lost:\s+(\d+)/.exec(output)?.[1]), output };
        };
        const pid = Number(w.host.run(`pgrep -f '(network|service)-mai[n].*${w.dir}' | tail -1`).trim());
        for (const mode of ['udp', 'tcp'] as const) {
          const warmUp = await run(mode, 1);
          if (warmUp.lost > 0) console.log(`${t.kind}, ${mode}: lost while warming up\n${warmUp.output}`);
          const before = memoryOf(pid);
          const { completed, lost, output } = await run(mode, SECONDS);
          console.log(`${t.kind}, ${mode}: ${completed} queries, ${Math.round(completed / SECONDS)} a second, ${lost} lost`);
          expect(completed, output).toBeGreaterThan(100 * SECONDS);
          expect(lost, output).toBe(0);
          expect(output).not.toMatch(/SERVFAIL|REFUSED/);
          expect(memoryOf(pid) - before).toBeLessThan(GROWTH_BYTES);
        }
        await e.reset();
      } finally {
        w.close();
      }
    },
  );
});
