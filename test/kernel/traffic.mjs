// Traffic in a namespace: a new attempt every 50 ms; each success prints the time in ms. Run by healing.test.ts.
// Modes:
//   tcp|udp HOST PORT: a new connection per attempt; success is an answer.
//   flow HOST PORT: one connection for all attempts; success is an echo.
//   dns SERVER NAME ANSWER: a query from a new port per attempt; success is ANSWER.
//   dhcp: a DISCOVER per attempt; success is an OFFER.
import dgram from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { tryTcp, tryUdp } from '../world/attempts.mjs';

const EVERY_MS = 50;
const GIVE_UP_MS = 300;
const [mode, host, what, answer] = process.argv.slice(2);
const port = Number(what);
const success = () => process.stdout.write(`${Date.now()}\n`);

async function dns() {
  const r = new Resolver({ timeout: GIVE_UP_MS, tries: 1 });
  r.setServers([host]);
  const found = await r.resolve4(what).catch(() => []);
  if (found[0] === answer) success();
}

function flow() {
  const s = net.connect({ host, port });
  s.on('error', () => {});
  s.on('data', success);
  return () => s.write('x');
}

function dhcp() {
  const mac = Buffer.from(readFileSync('/sys/class/net/eth0/address', 'utf8').trim().replaceAll(':', ''), 'hex');
  const s = dgram.createSocket({ type: 'udp4', reuseAddr: true });
  s.on('error', () => {});
  s.on('message', (m) => m[0] === 2 && success());
  s.bind(68, () => s.setBroadcast(true));
  let xid = 1;
  return () => {
    const m = Buffer.alloc(300);
    m.set([1, 1, 6, 0]);
    m.writeUInt32BE(xid++, 4);
    m[10] = 0x80; // the answer by broadcast
    mac.copy(m, 28);
    m.set([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255], 236);
    s.send(m, 67, '255.255.255.255', () => {});
  };
}

const begin = {
  tcp: () => () => tryTcp({ host, port }, GIVE_UP_MS, success),
  udp: () => () => tryUdp({ host, port }, GIVE_UP_MS, success),
  dns: () => dns,
  flow,
  dhcp,
}[mode]();
setInterval(begin, EVERY_MS);
