import { describe, expect, test } from 'vitest';
import { formatIpv4, parseIpv4, parseSubnet } from '../../wire/address.ts';
import { DhcpServer } from './server.ts';

const subnet = parseSubnet('192.168.64.0/24') as { base: number; prefix: number };
const MAC_A = 0x564545000001;
const MAC_B = 0x564545000002;

function server(): DhcpServer {
  const s = new DhcpServer({ subnet, leaseSeconds: 3600, domain: 'anka.internal' });
  s.setNics([
    { id: 'a', mac: MAC_A, hostname: 'vma', mtu: 1500 },
    { id: 'b', mac: MAC_B, hostname: 'vmb', mtu: 1500 },
  ]);
  return s;
}

/** A client's message. Addresses are dotted texts. */
function message(
  type: number,
  mac: number,
  o: { ciaddr?: string; requested?: string; server?: string; clientId?: number[]; giaddr?: string; parameters?: number[]; flags?: number } = {},
): Uint8Array {
  const b = new Uint8Array(576);
  b.set([1, 1, 6, 0, 1, 2, 3, 4]);
  const put = (at: number, t: string): void => b.set(t.split('.').map(Number), at);
  if (o.ciaddr) put(12, o.ciaddr);
  if (o.giaddr) put(24, o.giaddr);
  for (let i = 0; i < 6; i++) b[28 + i] = Math.floor(mac / 2 ** (40 - 8 * i)) & 255;
  b.set([0x63, 0x82, 0x53, 0x63, 53, 1, type], 236);
  let at = 243;
  const option = (code: number, bytes: number[]): void => {
    b.set([code, bytes.length, ...bytes], at);
    at += 2 + bytes.length;
  };
  if (o.requested) option(50, o.requested.split('.').map(Number));
  if (o.server) option(54, o.server.split('.').map(Number));
  if (o.clientId) option(61, o.clientId);
  if (o.parameters) option(55, o.parameters);
  b[10] = (o.flags ?? 0) >> 8;
  b[at] = 255;
  return b;
}

/** What the server did, in one word or line. */
function say(s: DhcpServer, m: Uint8Array, now = 0): string {
  const r = s.onMessage(m, now);
  if (typeof r === 'string') return r;
  return `${{ 2: 'OFFER', 5: 'ACK', 6: 'NAK' }[r.type]} ${formatIpv4(((r.bytes[16] << 24) | (r.bytes[17] << 16) | (r.bytes[18] << 8) | r.bytes[19]) >>> 0)} to ${formatIpv4(r.to)}`;
}

const GW = '192.168.64.1';

describe('the DHCP server', () => {
  test('B11: DISCOVER, OFFER, REQUEST, ACK, then renewal by unicast', () => {
    const s = server();
    expect(say(s, message(1, MAC_A))).toBe('OFFER 192.168.64.2 to 255.255.255.255');
    expect(say(s, message(3, MAC_A, { requested: '192.168.64.2', server: GW }))).toBe('ACK 192.168.64.2 to 255.255.255.255');
    expect(say(s, message(3, MAC_A, { ciaddr: '192.168.64.2' }), 1_800_000)).toBe('ACK 192.168.64.2 to 192.168.64.2');
  });
  test('INIT-REBOOT with an address of another network, or of another VM, is answered by NAK', () => {
    const s = server();
    say(s, message(1, MAC_A));
    say(s, message(3, MAC_A, { requested: '192.168.64.2', server: GW }));
    expect(say(s, message(3, MAC_B, { requested: '10.0.0.5' }))).toBe('NAK 0.0.0.0 to 255.255.255.255');
    expect(say(s, message(3, MAC_B, { requested: '192.168.64.2' }))).toBe('NAK 0.0.0.0 to 255.255.255.255');
    expect(say(s, message(3, MAC_B, { requested: '192.168.64.9' }))).toBe('ACK 192.168.64.9 to 255.255.255.255');
  });
  test('option 26 advertises the MTU of a NIC unless it is 1500', () => {
    const s = server();
    s.setNics([
      { id: 'a', mac: MAC_A, hostname: 'vma', mtu: 65_520 },
      { id: 'b', mac: MAC_B, hostname: 'vmb', mtu: 1500 },
    ]);
    const options = (mac: number): Buffer => Buffer.from((s.onMessage(message(1, mac), 0) as { bytes: Uint8Array }).bytes.subarray(240));
    expect(options(MAC_A).includes(Buffer.from([26, 2, 0xff, 0xf0]))).toBe(true);
    expect(options(MAC_B).includes(Buffer.from([26, 2]))).toBe(false);
  });
  test('B23: two VMs with the same client identifier get different addresses', () => {
    const s = server();
    const clientId = [255, 1, 2, 3, 4, 0, 2, 0, 0, 0xab, 0x11];
    expect(say(s, message(1, MAC_A, { clientId }))).toBe('OFFER 192.168.64.2 to 255.255.255.255');
    expect(say(s, message(1, MAC_B, { clientId }))).toBe('OFFER 192.168.64.3 to 255.255.255.255');
  });
  test('a client that chooses another server releases the offer', () => {
    const s = server();
    say(s, message(1, MAC_A));
    expect(say(s, message(3, MAC_A, { requested: '10.0.0.5', server: '10.0.0.1' }))).toBe('other-server');
    expect(s.pool.lease('a', 0)).toBeNull();
  });
  test('B91: an unknown hardware address, a relayed message and garbage are dropped and counted', () => {
    const s = server();
    expect(say(s, message(1, 0x020000000099))).toBe('unknown-mac');
    expect(say(s, message(1, MAC_A, { giaddr: '10.0.0.1' }))).toBe('relayed');
    expect(say(s, new Uint8Array(10))).toBe('malformed');
    expect([...s.drops]).toEqual([
      ['unknown-mac', 1],
      ['relayed', 1],
      ['malformed', 1],
    ]);
  });
  test('B50: INFORM is answered with options and no address', () => {
    expect(say(server(), message(8, MAC_A, { ciaddr: '192.168.64.77' }))).toBe('ACK 0.0.0.0 to 192.168.64.77');
  });
  test('B51: a reservation overrides the requested address and the old lease', () => {
    const s = server();
    say(s, message(1, MAC_A));
    say(s, message(3, MAC_A, { requested: '192.168.64.2', server: GW }));
    s.setNics([{ id: 'a', mac: MAC_A, hostname: 'vma', mtu: 1500, reservedIp: parseIpv4('192.168.64.50') as number }]);
    expect(say(s, message(3, MAC_A, { ciaddr: '192.168.64.2' }))).toBe('NAK 0.0.0.0 to 255.255.255.255');
    expect(say(s, message(1, MAC_A, { requested: '192.168.64.2' }))).toBe('OFFER 192.168.64.50 to 255.255.255.255');
  });
  test('B50: an address that is new to the client is probed; one in use is skipped', () => {
    const s = server();
    const discover = message(1, MAC_A);
    const first = s.candidate(discover, 0);
    expect(first).toEqual({ ip: parseIpv4('192.168.64.2'), nic: 'a', mac: MAC_A });
    s.probed(first?.ip as number, 0x02_00_00_00_00_99, 0);
    const second = s.candidate(discover, 0);
    expect(formatIpv4(second?.ip as number)).toBe('192.168.64.3');
    s.probed(second?.ip as number, null, 0);
    expect(s.candidate(discover, 0)).toBeNull();
    expect(say(s, discover)).toBe('OFFER 192.168.64.3 to 255.255.255.255');
    expect(s.candidate(message(3, MAC_A, { requested: '192.168.64.3', server: GW }), 0)).toBeNull();
    say(s, message(3, MAC_A, { requested: '192.168.64.3', server: GW }));
    expect(s.candidate(discover, 7_200_000), 'its own of before').toBeNull();
    expect(formatIpv4(s.candidate(message(3, MAC_B, { requested: '192.168.64.9' }), 0)?.ip as number), 'a memory of elsewhere').toBe('192.168.64.9');
    expect(s.candidate(message(3, MAC_B, { requested: '10.0.0.9' }), 0)).toBeNull();
  });
  test('a guest that declines every offer makes at most 16 addresses unavailable in ten minutes', () => {
    const s = server();
    const declined = new Set<string>();
    const decline = (now: number): void => {
      const ip = /OFFER (\S+)/.exec(say(s, message(1, MAC_A), now))?.[1] ?? '';
      expect(say(s, message(4, MAC_A, { requested: ip, server: GW }), now)).toBe('declined');
      declined.add(ip);
    };
    for (let i = 0; i < 400; i++) decline(0);
    expect(declined.size).toBe(17);
    expect(say(s, message(1, MAC_B), 0)).toMatch(/^OFFER/);
    for (let i = 0; i < 400; i++) decline(600_000);
    expect(declined.size).toBeLessThanOrEqual(33);
    expect(say(s, message(4, MAC_A, { requested: '192.168.64.200', server: GW }), 600_000), 'what it was not offered').toBe('not-ours');
  });
  test('a guest that answers every probe blocks at most 16 addresses in ten minutes; answers of other hosts all count', () => {
    const taken = (by: number): number => {
      const s = server();
      for (let n = 0; n < 253; n++) {
        const c = s.candidate(message(1, MAC_B), 0);
        if (!c) return n;
        s.probed(c.ip, by, 0);
      }
      return 253;
    };
    expect(taken(MAC_A)).toBe(17);
    expect(taken(0x020000000099)).toBe(253);
  });
  test('B51: a reservation overrides the lease of another NIC, whose next request is answered by NAK', () => {
    const s = server();
    say(s, message(1, MAC_B));
    say(s, message(3, MAC_B, { requested: '192.168.64.2', server: GW }));
    s.setNics([
      { id: 'a', mac: MAC_A, hostname: 'vma', mtu: 1500, reservedIp: parseIpv4('192.168.64.2') as number },
      { id: 'b', mac: MAC_B, hostname: 'vmb', mtu: 1500 },
    ]);
    expect(say(s, message(3, MAC_B, { ciaddr: '192.168.64.2' }))).toBe('NAK 0.0.0.0 to 255.255.255.255');
    expect(say(s, message(1, MAC_B))).toBe('OFFER 192.168.64.3 to 255.255.255.255');
    expect(say(s, message(1, MAC_A))).toBe('OFFER 192.168.64.2 to 255.255.255.255');
  });
  test('B23: an exhausted pool is reported, and recovers', () => {
    const small = new DhcpServer({ subnet: parseSubnet('10.0.0.0/29') as never, leaseSeconds: 60, domain: 'x' });
    small.setNics(Array.from({ length: 6 }, (_, i) => ({ id: `vm${i}`, mac: MAC_A + i, hostname: `vm${i}`, mtu: 1500 })));
    for (let i = 0; i < 5; i++) {
      const r = small.onMessage(message(1, MAC_A + i), 0);
      expect(typeof r).toBe('object');
    }
    expect(say(small, message(1, MAC_A + 5))).toBe('exhausted');
    expect(small.exhausted).toBe(true);
    expect(say(small, message(1, MAC_A + 5), 31_000)).toMatch(/^OFFER/);
    expect(small.exhausted).toBe(false);
  });
  test('RELEASE and DECLINE', () => {
    const s = server();
    say(s, message(1, MAC_A));
    say(s, message(3, MAC_A, { requested: '192.168.64.2', server: GW }));
    expect(say(s, message(4, MAC_A, { requested: '192.168.64.2' }))).toBe('declined');
    expect(say(s, message(1, MAC_A))).toBe('OFFER 192.168.64.3 to 255.255.255.255');
    say(s, message(3, MAC_A, { requested: '192.168.64.3', server: GW }));
    expect(say(s, message(7, MAC_A, { ciaddr: '192.168.64.3' }))).toBe('released');
    expect(s.pool.lease('a', 0)).toBeNull();
  });

  /** The options of the answer to a message, in order, after a check that the message is well-formed. */
  function optionsOf(s: DhcpServer, m: Uint8Array): Map<number, Buffer> {
    const r = s.onMessage(m, 0) as { bytes: Uint8Array };
    const b = Buffer.from(r.bytes);
    expect(b.length, 'RFC 2131, 2: at most 576 bytes with the headers of IP and UDP').toBeLessThanOrEqual(548);
    const found = new Map<number, Buffer>();
    for (let at = 240; b[at] !== 255; at += 2 + b[at + 1]) {
      expect(found.has(b[at]), 'each option once').toBe(false);
      found.set(b[at], b.subarray(at + 2, at + 2 + b[at + 1]));
    }
    return found;
  }

  test('RFC 6842, 3: the client identifier is returned as it was sent, whatever its length, and only if it was sent', () => {
    for (const length of [1, 2, 64, 65, 200, 255]) {
      const clientId = Array.from({ length }, (_, i) => i & 255);
      const s = server();
      s.setNics([{ id: 'a', mac: MAC_A, hostname: 'v'.repeat(63), mtu: 9000 }]);
      const found = optionsOf(s, message(1, MAC_A, { clientId, parameters: [12, 15, 119] }));
      expect([...(found.get(61) ?? [])]).toEqual(clientId);
      for (const code of [1, 3, 6, 51, 54]) expect(found.has(code), `option ${code} fits`).toBe(true);
    }
    expect(optionsOf(server(), message(1, MAC_A)).has(61)).toBe(false);
    const nak = optionsOf(server(), message(3, MAC_A, { requested: '10.0.0.5', clientId: [1, 2, 3] }));
    expect([[...(nak.get(53) ?? [])], [...(nak.get(61) ?? [])]]).toEqual([[6], [1, 2, 3]]);
  });
  test('RFC 2132, 9.8 and 3.3: options in the order of the request, the mask before the router', () => {
    const codes = [...optionsOf(server(), message(1, MAC_A, { parameters: [6, 3, 1, 51, 99] })).keys()];
    expect(codes.slice(0, 6)).toEqual([53, 54, 6, 1, 3, 51]);
  });
  test('RFC 3397: the search list, compressed, with as many domains as fit, for a client that requests it', () => {
    const s = server();
    s.search = ['corp.example', 'a.corp.example'];
    expect(optionsOf(s, message(1, MAC_A)).has(119)).toBe(false);
    const found = optionsOf(s, message(1, MAC_A, { parameters: [119] })).get(119) as Buffer;
    expect(found.toString('latin1')).toBe('\x04anka\x08internal\x00\x04corp\x07example\x00\x01a\xc0\x0f');
    s.search = Array.from({ length: 6 }, (_, i) => `${'d'.repeat(60)}${i}.example`);
    const long = optionsOf(s, message(1, MAC_A, { parameters: [119] })).get(119) as Buffer;
    expect(long.length).toBeGreaterThan(60);
    expect(long.length).toBeLessThanOrEqual(255);
    s.search = ['new.example'];
    expect(String(optionsOf(s, message(3, MAC_A, { ciaddr: '192.168.64.2', parameters: [119] })).get(119)), 'a renewal gets the list of now').toContain('new');
  });
  test('RFC 2131, 4.3.1, table 3: fields and options of OFFER, ACK, NAK and of the answer to INFORM', () => {
    const s = server();
    const offer = Buffer.from((s.onMessage(message(1, MAC_A, { flags: 0x8000, requested: '192.168.64.7' }), 0) as { bytes: Uint8Array }).bytes);
    expect([...offer.subarray(0, 12)], 'op, htype, hlen, hops; xid; secs 0, the flags of the client').toEqual([2, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0]);
    expect(offer.readUInt32BE(12), 'ciaddr').toBe(0);
    expect(
      offer.subarray(44, 236).every((x) => x === 0),
      'sname and file',
    ).toBe(true);
    const given = optionsOf(s, message(3, MAC_A, { requested: '192.168.64.7', server: GW }));
    expect(given.get(51)?.readUInt32BE(0)).toBe(3600);
    expect([given.get(58)?.readUInt32BE(0), given.get(59)?.readUInt32BE(0)], 'T1 and T2').toEqual([1800, 3150]);
    for (const code of [50, 55, 57]) expect(given.has(code)).toBe(false);
    const nak = optionsOf(s, message(3, MAC_A, { requested: '10.0.0.5' }));
    expect([...nak.keys()], 'NAK').toEqual([53, 54]);
    const inform = optionsOf(s, message(8, MAC_A, { ciaddr: '192.168.64.9' }));
    for (const code of [51, 58, 59]) expect(inform.has(code), 'no lease time').toBe(false);
  });
});
