/**
 * The card of the bench's guests (test/world/offload.c) against a card without offloads: two kernels with a stream
 * socket between them. The other kernel verifies the segments that it cuts.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { joinTap, OFFLOAD } from '../world/shim.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'cc');
const MTU = 1500;
const SIZE = 256 << 20;
const LARGE = '10.77.0.1';
const PLAIN = '10.77.0.2';
const PORT = 7000;

/** The data sent: every MiB differs, and nothing repeats within a segment. */
const BLOCK = `const block=n=>{const b=Buffer.alloc(1<<20);let x=n*2654435761>>>0;for(let i=0;i<b.length;i+=4){x=(x*1664525+1013904223)>>>0;b.writeUInt32LE(x,i)}return b};`;

const SINK = `${BLOCK}const h=require('crypto').createHash('sha256');let n=0;
require('net').createServer(s=>s.on('data',d=>{h.update(d);n+=d.length}).on('end',()=>{console.log(n,h.digest('hex'));process.exit(0)})).listen(${PORT},()=>console.log('ready'))`;

const source = (to: string): string => `${BLOCK}const {Readable}=require('stream');function*all(){for(let n=0;n<${SIZE >> 20};n++)yield block(n)}
Readable.from(all()).pipe(require('net').connect(${PORT},'${to}'))`;

function expected(): string {
  const block = new Function(`${BLOCK.replace('const block', 'var block')}return block`)() as (n: number) => Buffer;
  const h = createHash('sha256');
  for (let n = 0; n < SIZE >> 20; n++) h.update(block(n));
  return `${SIZE} ${h.digest('hex')}`;
}

/** A counter of a namespace's kernel, or of its card. */
const count = (ns: Namespace, name: string): number => Number(new RegExp(`${name}\\s+(\\d+)`).exec(ns.run('nstat -asz'))?.[1]);
const card = (ns: Namespace, name: string): number => Number(ns.run(`cat /sys/class/net/eth0/statistics/${name}`));

describe.skipIf(why !== null)(`a card with offloads${why ? ` (${why})` : ''}`, () => {
  let world: World;
  let large: Namespace;
  let plain: Namespace;

  beforeAll(async () => {
    world = new World('of-');
    for (const [name, address] of [
      ['large', LARGE],
      ['plain', PLAIN],
    ] as const) {
      const ns = world.namespace(name);
      ns.run(`ip tuntap add dev eth0 mode tap && ip link set eth0 mtu ${MTU} txqueuelen 20000 up && ip addr add ${address}/24 dev eth0`);
      if (name === 'large') large = ns;
      else plain = ns;
    }
    await joinTap(large, 'eth0', 'listen', join(world.dir, 'wire'), OFFLOAD);
    await joinTap(plain, 'eth0', 'dial', join(world.dir, 'wire'));
    await large.reaches(PLAIN);
  });

  afterAll(() => world?.close());

  async function move(from: Namespace, to: Namespace, address: string): Promise<string> {
    const sink = to.spawn([process.execPath, '-e', SINK]);
    let said = '';
    sink.stdout?.on('data', (d: Buffer) => {
      said += d.toString();
    });
    await until('the sink listens', () => said.includes('ready'));
    from.spawn([process.execPath, '-e', source(address)]);
    await until('all has come', () => said.split('\n').length > 2);
    return said.split('\n')[1] as string;
  }

  it('segments large packets into frames of the MTU that another kernel accepts', async () => {
    const [packets, bytes, sent] = [card(plain, 'rx_packets'), card(plain, 'rx_bytes'), card(large, 'tx_packets')];
    expect(await move(large, plain, PLAIN)).toBe(expected());
    expect(count(plain, 'TcpInCsumErrors')).toBe(0);
    const frames = card(plain, 'rx_packets') - packets;
    expect(frames).toBeGreaterThan(4 * (card(large, 'tx_packets') - sent));
    expect((card(plain, 'rx_bytes') - bytes) / frames).toBeLessThanOrEqual(MTU + 14);
  });

  it('merges frames into large packets of the same stream', async () => {
    const [received, sent] = [card(large, 'rx_packets'), card(plain, 'tx_packets')];
    expect(await move(plain, large, LARGE)).toBe(expected());
    expect(count(large, 'TcpInCsumErrors')).toBe(0);
    expect(card(plain, 'tx_packets') - sent).toBeGreaterThan(4 * (card(large, 'rx_packets') - received));
  });
});
