// Traffic towards forwarded ports: traffic.mjs tcp:HOST:PORT|udp:HOST:PORT|flow:HOST:PORT…
// Each target gets a new attempt every second (`flow`: a byte on one connection, which is opened again when it ends).
// A line on standard input prints the successes of each target as JSON.
import net from 'node:net';
import { tryTcp, tryUdp } from '../world/attempts.mjs';

const EVERY_MS = 1000;
const GIVE_UP_MS = 5000;
const counts = {};
const MODES = {
  tcp: (target, success) => tryTcp(target, GIVE_UP_MS, success),
  udp: (target, success) => tryUdp(target, GIVE_UP_MS, success),
  flow,
};

function flow(target, success) {
  target.socket ??= net
    .connect(target)
    .on('error', () => {})
    .on('data', success)
    .on('close', () => {
      target.socket = undefined;
    });
  target.socket.write('x');
}

for (const text of process.argv.slice(2)) {
  const [mode, host, port] = text.split(':');
  const target = { host, port: Number(port) };
  counts[text] = 0;
  setInterval(() => MODES[mode](target, () => counts[text]++), EVERY_MS);
}
process.stdin.on('data', () => console.log(JSON.stringify(counts)));
