import { beforeEach, describe, expect, test } from 'vitest';
import { checksum16, fold16, get16, get32, put16, put32, sum16 } from '../../wire/bytes.ts';
import { DropCounts } from '../drop-reasons.ts';
import { Guard, GuardedCard } from '../switch/guard.ts';
import { Switch } from '../switch/switch.ts';
import { type Carried, type Carriers, GatewayMachine, type GatewayPort, type GuestDatagram } from './gateway.ts';
import { PacketWriter } from './packet-writer.ts';

const SUBNET = { base: 0xc0a84000, prefix: 24 };
const GATEWAY_MAC = '5a4545004001';
const [A, B, C] = ['564545000001', '564545000002', '564545000003'];
const memory = new Uint8Array(1 << 20);

/** A port that keeps what it was sent: `→guest` frames of the gateway, and runs of other ports. */
class FakePort implements GatewayPort {
  readonly card: GuardedCard;
  readonly drops = new DropCounts();
  isolated = false;
  readonly filter = null;
  mtu = 1500;
  readonly guestMac: number;
  readonly frames: string[] = [];
  readonly runs: number[] = [];
  readonly queue = this;
  constructor(mac: string, ip: number) {
    this.card = new GuardedCard(mac, Number.parseInt(mac, 16));
    this.card.leaseIp = ip;
    this.guestMac = this.card.mac;
  }
  tryReserve(): number {
    return 700_000;
  }
  commit(n: number): void {
    this.#take(700_000, 700_000 + n);
  }
  forward(start: number, end: number): void {
    this.runs.push(this.#take(start, end));
  }
  #take(start: number, end: number): number {
    let n = 0;
    for (let p = start; p < end; n++) {
      const next = p + 4 + get32(memory, p);
      this.frames.push(Buffer.from(memory.subarray(p + 4, next)).toString('hex'));
      p = next;
    }
    return n;
  }
}

describe('switch and gateway', () => {
  let ports: FakePort[];
  let log: string[];
  let now: number;
  let answer: Carried;
  let datagrams: GuestDatagram[];
  let machine: GatewayMachine<FakePort>;
  let theSwitch: Switch<FakePort>;
  const [a, b, c] = [0, 1, 2];
  const port = (i: number): FakePort => ports[i] as FakePort;

  beforeEach(() => {
    log = [];
    now = 0;
    datagrams = [];
    answer = null;
    ports = [new FakePort(A as string, 0xc0a84002), new FakePort(B as string, 0xc0a84003), new FakePort(C as string, 0xc0a84004)];
    const guard = new Guard(SUBNET, 0x5a4545004001, () => {});
    guard.setCards(
      ports.map((p) => p.card),
      [],
      0,
    );
    const carriers: Carriers<FakePort> = {
      dhcpRequest: (_f, m) => log.push(`dhcp ${m.length}`),
      datagram: (_f, d) => {
        datagrams.push({ ...d, payload: new Uint8Array(d.payload) });
        return answer;
      },
      echo: (_f, e) => {
        log.push(`echo to ${e.destination.toString(16)}`);
        return answer;
      },
      tcpRun: (_f, start, end) => log.push(`tcp run of ${end - start}`),
      segmentLost: (_f, lost) => log.push(`lost ${JSON.stringify(lost)}`),
      tcpPacket: (_f, p) => log.push(`tcp packet of ${p.length}`),
    };
    machine = new GatewayMachine<FakePort>({
      ip: 0xc0a84001,
      mac: Number.parseInt(GATEWAY_MAC, 16),
      memory,
      writer: new PacketWriter(memory, 0x5a4545004001),
      carriers,
      now: () => now,
    });
    theSwitch = new Switch(memory, guard, machine);
    theSwitch.setPorts(ports);
  });

  const run = (from: number, ...frames: string[]): void => {
    let p = 64;
    for (const f of frames) {
      const bytes = Buffer.from(f.replaceAll(' ', ''), 'hex');
      put32(memory, p, bytes.length);
      memory.set(bytes, p + 4);
      p += 4 + bytes.length;
    }
    theSwitch.onRun(port(from), 64, p, 1);
  };
  const ip4 = (
    src: string,
    dst: string,
    protocol: string,
    payload: string,
    o: { to?: string; from?: string; fragment?: number; ttl?: number } = {},
  ): string => {
    const body = Buffer.from(payload.replaceAll(' ', ''), 'hex');
    const h = Buffer.from(`4500000000010000${(o.ttl ?? 64).toString(16).padStart(2, '0')}${protocol}0000${src}${dst}`, 'hex');
    h.writeUInt16BE(20 + body.length, 2);
    h.writeUInt16BE(o.fragment ?? 0, 6);
    put16(h, 10, checksum16(h, 0, 20));
    return `${o.to ?? GATEWAY_MAC}${o.from ?? A}0800${h.toString('hex')}${body.toString('hex')}`;
  };
  const icmpOf = (f: string): { type: number; code: number; rest: number; quoted: string } => {
    const x = Buffer.from(f, 'hex');
    expect(fold16(sum16(x, 14, 34))).toBe(0xffff);
    expect(fold16(sum16(x, 34, 14 + get16(x, 16)))).toBe(0xffff);
    return { type: x[34] as number, code: x[35] as number, rest: get32(x, 38), quoted: x.subarray(42).toString('hex') };
  };
  const tcp = (dst: string, to: string): string => ip4('c0a84002', dst, '06', '00'.repeat(20), { to });

  test('consecutive frames to one destination are one run', () => {
    run(a, tcp('c0a84003', B as string), tcp('c0a84003', B as string), tcp('c0a84004', C as string), tcp('c0a84003', B as string));
    expect([port(b).runs, port(c).runs, port(a).frames]).toEqual([[2, 1], [1], []]);
  });

  test('TCP to the gateway is one run, split at frames that the guard drops', () => {
    run(a, tcp('08080808', GATEWAY_MAC), tcp('08080808', GATEWAY_MAC), ip4('c0a84003', '08080808', '06', '00'.repeat(20)), tcp('08080808', GATEWAY_MAC));
    expect(log).toEqual([`tcp run of ${2 * 58}`, 'tcp run of 58']);
    expect(port(a).drops.toRecord()).toEqual({ ip_spoof: 1 });
  });

  test('group addresses go to all other ports; unknown addresses are not flooded', () => {
    run(a, ip4('c0a84002', 'e0000001', '11', '003500350009000041', { to: '01005e000001' }), tcp('c0a84009', '564545000009'));
    expect([port(a).frames.length, port(b).frames.length, port(c).frames.length]).toEqual([0, 1, 1]);
    expect(port(a).drops.toRecord()).toEqual({ no_destination: 1 });
  });

  test('B91: an isolated NIC neither reaches nor receives from others, group addresses included', () => {
    port(b).isolated = true;
    run(a, tcp('c0a84003', B as string), ip4('c0a84002', 'ffffffff', '11', '003500350009000041', { to: 'ffffffffffff' }));
    expect([port(b).frames.length, port(c).frames.length]).toEqual([0, 1]);
    port(a).isolated = true;
    run(
      a,
      tcp('c0a84004', C as string),
      ip4('c0a84002', 'ffffffff', '11', '003500350009000041', { to: 'ffffffffffff' }),
      ip4('c0a84002', 'c0a84001', '01', '0800f7fd00010001'),
    );
    expect(port(c).frames.length).toBe(1);
    expect(port(a).drops.toRecord()).toEqual({ isolated: 3 });
  });

  test('ARP for the gateway is answered, and not flooded', () => {
    run(a, `ffffffffffff${A}0806 0001080006040001${A}c0a84002000000000000c0a84001`);
    expect(port(a).frames).toEqual([`${A}${GATEWAY_MAC}08060001080006040002${GATEWAY_MAC}c0a84001${A}c0a84002`]);
    expect(port(b).frames).toEqual([]);
  });

  test('an echo request to the gateway is answered; one to outside is forwarded or reported by ICMP', () => {
    run(a, ip4('c0a84002', 'c0a84001', '01', '0800ba9600010001 414243'.replace('ba96', '7459')));
    expect(port(a).frames).toEqual([]); // its checksum is wrong
    const message = Buffer.from('0800000000010001414243', 'hex');
    put16(message, 2, checksum16(message, 0, message.length));
    run(a, ip4('c0a84002', 'c0a84001', '01', message.toString('hex')), ip4('c0a84002', '08080808', '01', message.toString('hex')));
    expect(icmpOf(port(a).frames[0] as string)).toEqual({ type: 0, code: 0, rest: 0x00010001, quoted: '414243' });
    answer = 'no_ping_right';
    run(a, ip4('c0a84002', '08080808', '01', message.toString('hex')));
    expect(log).toEqual(['echo to 8080808', 'echo to 8080808']);
    expect(port(a).drops.toRecord()).toEqual({ malformed: 1, no_ping_right: 1 });
  });

  test('a fragmented datagram is reassembled', () => {
    run(a, ip4('c0a84002', '08080808', '11', '4141414141', { fragment: 1 }), ip4('c0a84002', '08080808', '11', '10002000000d0000', { fragment: 0x2000 }));
    expect(datagrams).toEqual([
      {
        source: 0xc0a84002,
        sourcePort: 0x1000,
        destination: 0x08080808,
        destinationPort: 0x2000,
        payload: Uint8Array.from(Buffer.from('AAAAA')),
        ttl: 63,
        whole: false,
      },
    ]);
  });

  test('what cannot be forwarded is reported by ICMP: port unreachable, unknown protocol, time exceeded', () => {
    answer = { unreachable: 3, drop: 'prohibited' };
    const datagram = ip4('c0a84002', '08080808', '11', '1000200000080000');
    run(a, datagram);
    expect(icmpOf(port(a).frames[0] as string)).toEqual({ type: 3, code: 3, rest: 0, quoted: datagram.slice(28) });
    run(a, ip4('c0a84002', '08080808', '2f', '00000000'), ip4('c0a84002', '08080808', '11', '1000200000080000', { ttl: 1 }));
    expect(
      port(a)
        .frames.slice(1)
        .map((f) => [icmpOf(f).type, icmpOf(f).code]),
    ).toEqual([
      [3, 2],
      [11, 0],
    ]);
  });

  test('mixed MTUs: fragments, or fragmentation needed, for what is too large for its receiver', () => {
    port(b).mtu = 600;
    const big = '00'.repeat(1000);
    run(a, ip4('c0a84002', 'c0a84003', '11', big, { to: B as string }));
    expect(port(b).frames.map((f) => [f.length / 2 - 34, Number.parseInt(f.slice(40, 44), 16)])).toEqual([
      [576, 0x2000],
      [424, 72],
    ]);
    run(a, ip4('c0a84002', 'c0a84003', '11', big, { to: B as string, fragment: 0x4000 }));
    expect(icmpOf(port(a).frames[0] as string)).toMatchObject({ type: 3, code: 4, rest: 600 });
    expect(port(a).drops.toRecord()).toEqual({ too_big: 1 });
  });

  test('mixed MTUs: the MSS of a SYN is lowered to the smaller MTU', () => {
    port(b).mtu = 600;
    const syn = Buffer.from('0001000200000000000000006002ffff0000000002040 5b4'.replaceAll(' ', ''), 'hex');
    run(a, ip4('c0a84002', 'c0a84003', '06', syn.toString('hex'), { to: B as string }));
    const seen = Buffer.from(port(b).frames[0] as string, 'hex').subarray(34);
    expect(get16(seen, 22)).toBe(560);
    expect(fold16(sum16(seen, 0, 24))).toBe(fold16(sum16(syn, 0, 24)));
  });

  /** An ICMP message of guest A with a right checksum. */
  const icmp = (dst: string, message: string, o: Parameters<typeof ip4>[4] = {}): string => {
    const m = Buffer.from(message.replaceAll(' ', ''), 'hex');
    put16(m, 2, checksum16(m, 0, m.length));
    return ip4('c0a84002', dst, '01', m.toString('hex'), o);
  };
  /** The start of a segment from 8.8.8.8:80 to guest A, port 40000, sequence number 7. */
  const segment = (protocol = '06'): string => `450005dc 00014000 40${protocol}0000 08080808 c0a84002 00509c40 00000007`;

  test('a guest’s error about a segment goes to the TCP path, if it goes to the segment’s sender', () => {
    run(a, icmp('08080808', `03040000 00000500 ${segment()}`));
    const lost = { guestIp: 0xc0a84002, peerIp: 0x08080808, peerPort: 80, guestPort: 40_000, seq: 7, code: 4, size: 1500, mtu: 1280 };
    expect(log).toEqual([`lost ${JSON.stringify(lost)}`]);
    run(a, icmp('08080809', `03040000 00000500 ${segment()}`), icmp('08080808', `03030000 00000000 ${segment('11')}`));
    run(a, icmp('08080808', '03040000 00000500 4500'), icmp('08080808', `0b000000 00000000 ${segment()}`));
    expect(log).toHaveLength(1);
    expect(port(a).frames).toEqual([]);
    expect(port(a).drops.toRecord()).toEqual({ malformed: 1 });
  });

  test('RFC 1812, 4.3.2.7: no error about an error, nor about a later fragment', () => {
    port(b).mtu = 600;
    run(a, icmp('08080808', `03030000 00000000 ${segment()}`, { ttl: 1 }));
    run(a, icmp('c0a84003', `03030000 00000000 ${segment()}${'00'.repeat(1000)}`, { to: B as string, fragment: 0x4000 }));
    run(a, ip4('c0a84002', 'c0a84003', '11', '00'.repeat(1000), { to: B as string, fragment: 0x4001 }));
    expect(port(a).frames).toEqual([]);
    expect(port(a).drops.toRecord()).toEqual({ ttl: 1, too_big: 2 });
    // but about an answer to a ping
    run(a, icmp('c0a84003', `00000000 00010001 ${'00'.repeat(1000)}`, { to: B as string, fragment: 0x4000 }));
    expect(port(a).frames.map((f) => icmpOf(f))).toMatchObject([{ type: 3, code: 4, rest: 600 }]);
  });

  test('RFC 1812, 4.3.2.8: errors to a guest are limited, 50 at once and 1,000 a second; not those with an MTU', () => {
    port(b).mtu = 600;
    const expired = ip4('c0a84002', '08080808', '11', '1000200000080000', { ttl: 1 });
    const tooBig = ip4('c0a84002', 'c0a84003', '11', '00'.repeat(1000), { to: B as string, fragment: 0x4000 });
    const errors = (...frames: string[]): number => {
      const before = port(a).frames.length;
      run(a, ...frames);
      return port(a).frames.length - before;
    };
    expect(errors(...Array<string>(60).fill(expired))).toBe(50);
    expect(errors(...Array<string>(60).fill(tooBig))).toBe(60);
    now += 20;
    expect(errors(...Array<string>(60).fill(expired))).toBe(20);
    expect(port(a).drops.toRecord()).toMatchObject({ ttl: 120, rate_limit: 50, too_big: 60 });
    // another guest has its own
    run(b, ip4('c0a84003', '08080808', '11', '1000200000080000', { ttl: 1, from: B as string }));
    expect(port(b).frames).toHaveLength(1);
  });

  test('an error from beyond the gateway quotes the guest’s packet; with "fragmentation needed" as it was: whole, with DF', () => {
    const lost = { protocol: 17, source: 0xc0a84002, destination: 0x08080808, size: 1408, payload: Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]) };
    machine.relayError(port(a), 0x0a090001, { type: 3, code: 4, info: 1300 }, lost);
    const error = icmpOf(port(a).frames[0] as string);
    expect(error).toMatchObject({ type: 3, code: 4, rest: 1300 });
    const quoted = Buffer.from(error.quoted, 'hex');
    expect([get16(quoted, 2), get16(quoted, 6), quoted.length]).toEqual([1428, 0x4000, 28]);
  });

  test('a client may only send DHCP requests for itself', () => {
    const discover = (mac: string): string => {
      const m = `01010600deadbeef${'00'.repeat(20)}${mac}${'00'.repeat(10)}`;
      return ip4('00000000', 'ffffffff', '11', `00440043${(8 + m.length / 2).toString(16).padStart(4, '0')}0000${m}`, { to: 'ffffffffffff' });
    };
    run(a, discover(A as string), discover(B as string));
    expect(log).toEqual(['dhcp 44']);
    expect(port(a).drops.toRecord()).toEqual({ mac_spoof: 1 });
    expect(port(b).frames).toEqual([]);
  });
});
