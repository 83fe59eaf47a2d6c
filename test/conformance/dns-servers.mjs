// DNS servers with habits, for the tests: each answers `A` by 203.0.113.7, on UDP and TCP port 53 of its address.
//   dns-servers.mjs ADDRESS HABIT   prints `ready`
// lower: returns the question in lower case. once: answers a question only when it is asked a second time.
// slow: answers `slow…` after a second, others at once. refuses-tcp: listens on UDP only. plain: none of these.
// truncates: by UDP, answers with TC and no record. negative: NXDOMAIN with an SOA, and FORMERR to a query with OPT.
// closes: closes each connection after its first answer. ports: prints the source port of each datagram.
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

const [, , address, habit] = process.argv;
const asked = new Map();

/** The SOA of the root: minimum 77. */
const SOA = Buffer.from('000006000100000384001a016100016200000000010000000100000001000000010000004d', 'hex');

/** The answer to a query; null for none. */
function answer(query, transport) {
  let end = 12;
  while (query[end] > 0) end += query[end] + 1;
  end += 5;
  const question = Buffer.from(query.subarray(12, end));
  const name = question.subarray(0, -4).toString('latin1').toLowerCase();
  const count = (asked.get(name) ?? 0) + 1;
  asked.set(name, count);
  if (habit === 'once' && count === 1) return null;
  if (habit === 'lower') question.write(name, 0, 'latin1');
  if (habit === 'negative') {
    if (query[11] > 0) return Buffer.from([query[0], query[1], 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
    return Buffer.concat([Buffer.from([query[0], query[1], 0x81, 0x83, 0, 1, 0, 0, 0, 1, 0, 0]), question, SOA]);
  }
  if (habit === 'truncates' && transport === 'udp') return Buffer.concat([Buffer.from([query[0], query[1], 0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]), question]);
  const header = Buffer.from([query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
  return Buffer.concat([header, question, Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7])]);
}

/** When to send it, ms. */
const delay = (query) => (habit === 'slow' && query.includes('slow') ? 1000 : 0);

const udp = createSocket(address.includes(':') ? 'udp6' : 'udp4');
udp.on('message', (query, from) => {
  if (habit === 'ports') console.log(from.port);
  const a = answer(query, 'udp');
  if (a) setTimeout(() => udp.send(a, from.port, from.address), delay(query));
});
udp.bind(53, address, () => {
  if (habit === 'refuses-tcp') return console.log('ready');
  createServer((socket) => {
    let rest = Buffer.alloc(0);
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const query = rest.subarray(2, 2 + rest.readUInt16BE(0));
        rest = rest.subarray(2 + query.length);
        const a = answer(query, 'tcp');
        if (!a) continue;
        const framed = Buffer.concat([Buffer.from([a.length >> 8, a.length & 255]), a]);
        if (habit === 'closes') return socket.end(framed);
        setTimeout(() => socket.write(framed), delay(query));
      }
    });
  }).listen(53, address, () => console.log('ready'));
});
