/**
 * A process with the TCP path alone: one NIC on a unix socket that it listens on, ARP, and forwarding. For tests and
 * benches of the path.
 *
 * tcp-path-process.ts SOCKET MTU [HOST_PORT:GUEST_PORT,…] [plain]
 *
 * The guest's destinations are dialled unchanged; the gateway 192.168.64.1 is this host's 127.0.0.1. SIGUSR2 prints the
 * counters as a line of JSON. `plain`: host sockets by node:net instead of its handles.
 */
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { createServer, Socket } from 'node:net';
import { TcpGateway } from '../../src/engine/user/sockets/tcp.ts';
import { loadKernels } from '../../src/net/memory/kernels.ts';
import { PacketMemory } from '../../src/net/memory/packet-memory.ts';
import type { GuestPort } from '../../src/net/tcp/interface.ts';
import type { KeepAlive } from '../../src/net/tcp/send.ts';
import { formatIpv4 } from '../../src/wire/address.ts';
import { ETH, EtherType, readMac, writeMac } from '../../src/wire/ethernet.ts';
import { IPV4, IpProtocol } from '../../src/wire/ipv4.ts';

const [path = '', mtuText = '1500', forwards = '', sockets = ''] = process.argv.slice(2);
const GATEWAY_MAC = 0x020000006401;
const GATEWAY = 0xc0a84001;
const GUEST = 0xc0a84002;
const ARENA = 1 << 20;
const CARRY = 128 << 10;
const QUEUE = 4 << 20;
/** Bytes of a queue that only ARP's answers may take. */
const CONTROL_ROOM = 4096;

const memory = new PacketMemory();
const u8 = memory.u8;

interface Arena {
  at: number;
  pins: number;
  unpin: () => void;
}
function arena(): Arena {
  const a: Arena = { at: memory.alloc(ARENA + CARRY), pins: 0, unpin: () => void a.pins-- };
  return a;
}

/** One NIC: received frames are passed on in runs, sent frames leave once per turn of the event loop. */
class Port implements GuestPort {
  readonly index = 0;
  readonly id = 'guest';
  readonly mtu = Number(mtuText);
  guestMac = 0xffffffffffff;
  readonly #arenas: Arena[] = [arena(), arena(), arena(), arena()];
  #arena = this.#arenas[0];
  #left = 0;
  readonly #tx = [memory.alloc(QUEUE), memory.alloc(QUEUE)];
  #txBusy = [0, 0];
  #side = 0;
  #from = 0;
  #end = 0;
  #flushing = false;
  #starved = false;
  socket: Socket | null = null;
  readonly queue = this;

  room(): number {
    const room = QUEUE - this.#end - 70_000;
    if (room <= 0) this.#starved = true;
    return this.socket ? room : 0;
  }

  canSendControl(): boolean {
    const hasRoom = QUEUE - this.#end > CONTROL_ROOM;
    this.#starved ||= !hasRoom;
    return this.socket !== null && hasRoom;
  }

  reserve(): number {
    return this.#tx[this.#side] + this.#end;
  }

  commit(bytes: number): void {
    this.#end += bytes;
    if (this.#flushing || bytes === 0) return;
    this.#flushing = true;
    process.nextTick(() => this.#flush());
  }

  #flush(): void {
    this.#flushing = false;
    const n = this.#end - this.#from;
    if (n === 0 || !this.socket) return;
    const side = this.#side;
    this.#txBusy[side]++;
    this.socket.write(memory.buffer(this.#tx[side] + this.#from, n), () => {
      this.#txBusy[side]--;
      this.#turn();
    });
    this.#from = this.#end;
    // written completely: the memory is free again
    if (this.socket.writableLength === 0) this.#from = this.#end = 0;
    else this.#turn();
  }

  /** Switches to the other half when that is free and this one is mostly used. */
  #turn(): void {
    const other = 1 - this.#side;
    if (this.#txBusy[this.#side] === 0 && this.#from === this.#end) this.#from = this.#end = 0;
    else if (this.#txBusy[other] === 0 && this.#end > QUEUE / 2 && this.#from === this.#end) {
      this.#side = other;
      this.#from = this.#end = 0;
    }
    if (this.#starved && this.room() > 0) {
      this.#starved = false;
      gateway.onRoom(this);
    }
  }

  readBuffer(): Uint8Array {
    return memory.buffer(this.#arena.at + this.#left, ARENA);
  }

  pinRun(): (() => void) | null {
    if (this.#arenas.every((a) => a === this.#arena || a.pins > 0)) return null;
    this.#arena.pins++;
    return this.#arena.unpin;
  }

  onBytes(bytes: number): void {
    const a = this.#arena;
    const end = a.at + this.#left + bytes;
    let at = a.at;
    let run = at;
    while (end - at >= 4) {
      const length = memory.view.getUint32(at);
      if (end - at < 4 + length) break;
      const frame = at + 4;
      const ipv4 = memory.view.getUint16(frame + ETH.type) === EtherType.ipv4;
      if (!ipv4 || u8[frame + ETH.payload + IPV4.protocol] !== IpProtocol.tcp) {
        if (at > run) gateway.onRun(this, run, at);
        if (memory.view.getUint16(frame + ETH.type) === EtherType.arp) this.#arp(frame);
        run = frame + length;
      }
      at = frame + length;
    }
    if (at > run) gateway.onRun(this, run, at);
    this.#left = end - at;
    if (a.pins > 0) {
      this.#arena = this.#arenas.find((x) => x.pins === 0)!;
      u8.copyWithin(this.#arena.at, at, end);
    } else if (this.#left > 0 && at > a.at) u8.copyWithin(a.at, at, end);
  }

  #arp(frame: number): void {
    if (memory.view.getUint32(frame + 38) !== GATEWAY) return;
    this.guestMac = readMac(u8, frame + ETH.source);
    const at = this.reserve();
    memory.view.setUint32(at, 42);
    u8.copyWithin(at + 4, frame, frame + 42);
    writeMac(u8, at + 4, this.guestMac);
    writeMac(u8, at + 10, GATEWAY_MAC);
    u8[at + 4 + 21] = 2;
    writeMac(u8, at + 4 + 22, GATEWAY_MAC);
    memory.view.setUint32(at + 4 + 28, GATEWAY);
    u8.copyWithin(at + 4 + 32, frame + 22, frame + 32);
    this.commit(46);
  }
}

const port = new Port();
const gateway = new TcpGateway({
  memory,
  kernels: loadKernels(memory),
  gatewayMac: GATEWAY_MAC,
  resolve: (_port, ip, tcpPort) => ({ host: ip === GATEWAY ? '127.0.0.1' : formatIpv4(ip), port: tcpPort }),
  onUnreachable: () => undefined,
  secret: randomBytes(16),
  plainSockets: sockets === 'plain',
  // idle, interval, probes
  ...(process.env['KEEP_ALIVE'] ? { keepAlive: JSON.parse(process.env['KEEP_ALIVE']) as KeepAlive } : {}),
});

rmSync(path, { force: true });
createServer({ pauseOnConnect: true }, (given) => {
  const handle = (given as Socket & { _handle: object | null })._handle;
  (given as Socket & { _handle: object | null })._handle = null;
  const socket = new Socket({ handle, onread: { buffer: () => port.readBuffer(), callback: (n: number) => port.onBytes(n) } } as never);
  port.socket = socket;
  const fd = (handle as { fd: number }).fd;
  if (process.env['SNDBUF'])
    void import('koffi').then((k) => {
      const v = Buffer.alloc(4);
      v.writeInt32LE(Number(process.env['SNDBUF']));
      k.default.load('libc.so.6').func('int setsockopt(int, int, int, void *, uint32_t)')(fd, 1, 7, v, 4);
    });
  socket.on('error', () => undefined);
  socket.on('close', () => process.exit(0));
  socket.resume();
}).listen(path);
let nextPort = 30_000;
for (const rule of forwards.split(',').filter((r) => r !== '')) {
  const [host, guest] = rule.split(':').map(Number) as [number, number];
  createServer({ pauseOnConnect: true, allowHalfOpen: true }, (s) => {
    nextPort = nextPort >= 60_000 ? 30_000 : nextPort + 1;
    gateway.accept(port, { guestIp: GUEST, guestPort: guest, sourceIp: GATEWAY, sourcePort: nextPort, client: s });
  }).listen(host);
}
process.on('SIGUSR2', () => {
  // `held`: what is in use, in bytes. `rss` also has what V8 frees later: tens of megabytes, more on a slow machine
  (globalThis as unknown as { gc: () => void }).gc();
  const { heapUsed, external, rss } = process.memoryUsage();
  console.log(JSON.stringify({ ...gateway.stats(), held: heapUsed + external, rss }));
});
process.on('SIGTERM', () => process.exit(0));
