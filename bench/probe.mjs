// A tiny server and client for latency and connection rates; run inside a namespace.
//   probe.mjs serve PORT                        echoes
//   probe.mjs latency HOST PORT COUNT           round trips of 64 bytes over one connection: microseconds, median and p99
//   probe.mjs connects HOST PORT SECONDS WIDTH  connections per second: connect, one byte each way, close; WIDTH at once
import { connect, createServer } from 'node:net';

const [, , mode, ...args] = process.argv;
const done = (o) => {
  process.stdout.write(`${JSON.stringify(o)}\n`);
  process.exit(0);
};

if (mode === 'serve') {
  createServer({ noDelay: true }, (c) => {
    c.on('error', () => {});
    c.on('data', (d) => c.write(d));
  }).listen(Number(args[0]), '0.0.0.0', 4096, () => console.log('ready'));
} else if (mode === 'latency') {
  const [host, port, count] = args;
  const s = connect({ host, port: Number(port), noDelay: true });
  const times = [];
  const ask = Buffer.alloc(64);
  let t = 0n;
  let got = 0;
  const send = () => {
    t = process.hrtime.bigint();
    s.write(ask);
  };
  s.on('connect', send);
  s.on('data', (d) => {
    got += d.length;
    if (got < 64) return;
    got = 0;
    times.push(Number(process.hrtime.bigint() - t) / 1000);
    if (times.length < Number(count)) return send();
    times.splice(0, Math.floor(times.length / 10)); // the engine's warming up
    times.sort((a, b) => a - b);
    done({ median: times[Math.floor(times.length / 2)], p99: times[Math.floor(times.length * 0.99)] });
  });
} else if (mode === 'connects') {
  const [host, port, seconds, width] = args;
  const until = Date.now() + Number(seconds) * 1000;
  const began = process.hrtime.bigint();
  let n = 0;
  let failed = 0;
  let open = Number(width);
  const one = () => {
    if (Date.now() >= until) {
      if (--open === 0) done({ rate: (n * 1e9) / Number(process.hrtime.bigint() - began), failed });
      return;
    }
    const s = connect({ host, port: Number(port), noDelay: true });
    s.on('connect', () => s.write('x'));
    s.on('data', () => {
      n++;
      s.resetAndDestroy(); // no TIME_WAIT, so that ports do not run out
    });
    s.on('error', () => {
      failed++;
    });
    s.on('close', one);
  };
  for (let i = 0; i < open; i++) one();
}
