/**
 * Sends single packets with a token, and reports where they arrive. The programs need only Python's `socket` module.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Namespace, until, type World } from '../world/world.ts';

/** A received packet. The source port is present only where the packet has one. */
export interface Seen {
  at: string;
  protocol: number;
  source: string;
  destination: string;
  port: number;
}

/**
 * Raw sockets receive what the namespace's own firewall accepts. Echo replies and errors that quote a token are left
 * out.
 */
const OBSERVER = `
import socket, select, sys
s4 = []
for p in (1, 6, 17, 47):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, p); s4.append((s, p))
s6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 17)
g = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for a in sys.argv[1:]:
    try: g.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.1.2.3') + socket.inet_aton(a))
    except OSError: pass
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(('0.0.0.0', 8080)); l.listen(64)
kept = []
def token(b):
    i = b.find(b'token-')
    return None if i < 0 else b[i:i+9].decode()
print('ready', flush=True)
while True:
    for r in select.select([s for s, p in s4] + [s6, l], [], [])[0]:
        if r is l:
            kept.append(l.accept()[0]); continue
        b, peer = r.recvfrom(65535)
        t = token(b)
        if t is None: continue
        if r is s6:
            print(t, 17, peer[0].split('%')[0], '?', b[2] * 256 + b[3], flush=True); continue
        h = (b[0] & 15) * 4; p = b[9]; d = b[h:]
        if p == 1 and d[0] != 8: continue
        print(t, p, socket.inet_ntoa(b[12:16]), socket.inet_ntoa(b[16:20]), d[2] * 256 + d[3] if p in (6, 17) else 0, flush=True)
`;

/**
 * argv: kind token source destination sport dport wait. Exits once the answer is known, at the latest after `wait`
 * seconds. Packets to ports 53 and 67 are a DNS query and a DHCPDISCOVER, so that they are answered.
 */
const SENDER = `
import socket, struct, sys, time
kind, token, src, dst, sport, dport = sys.argv[1:7]; sport = int(sport); dport = int(dport); wait = int(sys.argv[7]); t = token.encode()
def csum(b):
    if len(b) % 2: b += b'\\0'
    n = sum(b[i] * 256 + b[i + 1] for i in range(0, len(b), 2))
    while n > 65535: n = (n & 65535) + (n >> 16)
    return 65535 - n
def dns(): return bytes([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(t)]) + t + b'\\x04anka\\x08internal\\0\\0\\1\\0\\1'
def discover():
    mac = bytes.fromhex(open('/sys/class/net/eth0/address').read().strip().replace(':', ''))
    return bytes([1, 1, 6, 0]) + t[-4:] + bytes(20) + mac + bytes(202) + bytes([99, 130, 83, 99, 53, 1, 1, 60, len(t)]) + t + b'\\xff'
body = t if kind != 'udp' else dns() if dport == 53 else discover() if dport == 67 else t
def answered(m):
    h = (m[0] & 15) * 4; d = m[h:]
    if m[9] == 1: return d[0] == 0 and t in d
    return d[0] * 256 + d[1] == dport and (t in d if dport == 53 else d[12:16] == t[-4:])
def said(e):
    print({111: 'refused', 104: 'refused', 101: 'refused'}.get(e.errno, 'silent'))
if kind == 'connect':
    s = socket.socket(); s.settimeout(wait)
    if src != '-': s.bind((src, 0))
    try:
        s.connect((dst, dport)); q = dns(); s.send(len(q).to_bytes(2, 'big') + q if dport == 53 else t)
        try: print('refused' if s.recv(1) == b'' else 'answered')
        except socket.timeout: print('silent')
    except socket.timeout: print('silent')
    except OSError as e: said(e)
elif kind == 'udp6':
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try: s.sendto(t, (dst, dport, 0, socket.if_nametoindex('eth0') if dst[:2] in ('fe', 'ff') else 0)); print('silent')
    except OSError as e: print('silent')
else:
    if kind == 'udp': p = 17; b = struct.pack('!HHHH', sport or 40000 + int(token[6:]), dport, 8 + len(body), 0) + body
    elif kind == 'icmp': p = 1; b = bytes([8, 0, 0, 0, 0, 7, 0, 1]) + t; c = csum(b); b = bytes([8, 0]) + struct.pack('!H', c) + b[4:]
    elif kind == 'syn':
        p = 6; b = struct.pack('!HHIIBBHHH', sport or 40000 + int(token[6:]), dport, 1, 0, 0x50, 2, 8192, 0, 0) + t
        c = csum(socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack('!HH', 6, len(b)) + b); b = b[:16] + struct.pack('!H', c) + b[18:]
    else: p = 47; b = b'\\0\\0\\x08\\0' + t
    h = bytearray(struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(b), 0, 0, 64, p, 0, socket.inet_aton(src), socket.inet_aton(dst)))
    h[10:12] = struct.pack('!H', csum(bytes(h)))
    if kind == 'udp' and src == '0.0.0.0' or dst.startswith('127.') and src[:4] != '127.':
        s = socket.socket(17, 3); s.bind(('eth0', 0))
        mac = open('/sys/class/net/eth0/address').read().strip().replace(':', '')
        to = 'f' * 12 if dst == '255.255.255.255' else '5a4545004001'
        put = lambda: s.send(bytes.fromhex(to + mac + '0800') + bytes(h) + b)
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        put = lambda: s.sendto(bytes(h) + b, (dst, 0))
    # frames, as an answer by DHCP may be for an address that this guest has not got
    r = socket.socket(17, 2, socket.htons(0x800)); r.settimeout(0.2)
    try: put()
    except OSError: pass
    end = time.time() + wait; word = 'silent'
    while time.time() < end:
        try: m, at = r.recvfrom(4096)
        except socket.timeout: continue
        if at[2] == 4: continue # its own
        if m[9] == 1 and m[20:22] == b'\\3\\1' and m[12:16] == socket.inet_aton(src): continue # its own kernel: ARP was not answered
        if m[9] == 1 and m[20] == 3 and t in m and m[21] in (0, 1, 2, 9, 10, 13): word = 'refused'; break
        if m[9] in (1, 17) and answered(m): word = 'answered'; break
    print(word)
`;

export class Observers {
  readonly seen = new Map<string, Seen[]>();
  readonly #sender: string;

  constructor(world: World) {
    this.#sender = join(world.dir, 'sender.py');
    writeFileSync(this.#sender, SENDER);
  }

  /**
   * Starts an observer in a namespace, which is ready when this resolves. `addresses`: those of interfaces on which it
   * joins a multicast group.
   */
  async watch(at: string, ns: Namespace, addresses: readonly string[]): Promise<void> {
    const child = ns.spawn(['python3', '-c', OBSERVER, ...addresses]);
    let ready = false;
    let rest = '';
    child.stdout?.on('data', (d: Buffer) => {
      const lines = (rest + d.toString()).split('\n');
      rest = lines.pop() as string;
      for (const line of lines) {
        if (line === 'ready') ready = true;
        const [token, protocol, source, destination, port] = line.split(' ');
        if (token?.startsWith('token-'))
          this.seen.set(token, [
            ...(this.seen.get(token) ?? []),
            { at, protocol: Number(protocol), source: source as string, destination: destination as string, port: Number(port) },
          ]);
      }
    });
    await until(`the observer in ${at}`, () => ready);
  }

  /** Sends one packet and returns the response within `wait` seconds: `silent`, `answered` or `refused`. */
  async send(ns: Namespace, kind: string, token: string, source: string, destination: string, sport: number, dport: number, wait: number): Promise<string> {
    return ((await ns.ask(`python3 ${this.#sender} ${kind} ${token} ${source} ${destination} ${sport} ${dport} ${wait}`)) ?? 'the sender failed').trim();
  }
}
