"""Sends one DHCP message as a frame from eth0, and prints the first answer as JSON, or null after WAIT seconds.

dhcp-client.py WAIT MESSAGE: MESSAGE is JSON with `type` (option 53), and optionally `xid`, `flags`, `ciaddr`, `giaddr`,
`options` (code to hex, in their order), `unicast` (the gateway's address: sent there from ciaddr).
"""
import json, socket, struct, subprocess, sys, time

wait, m = float(sys.argv[1]), json.loads(sys.argv[2])
mac = bytes.fromhex(open('/sys/class/net/eth0/address').read().strip().replace(':', ''))
address = lambda text: socket.inet_aton(text or '0.0.0.0')

options = {53: bytes([m['type']]), **{int(code): bytes.fromhex(value) for code, value in m.get('options', {}).items()}}
body = struct.pack('!BBBBIHH', 1, 1, 6, 0, m.get('xid', 0x01020304), 0, m.get('flags', 0))
body += address(m.get('ciaddr')) + bytes(8) + address(m.get('giaddr')) + mac + bytes(10 + 192)
body += bytes.fromhex('63825363') + b''.join(bytes([code, len(v)]) + v for code, v in options.items()) + b'\xff'
source, target, to = address(None), address('255.255.255.255'), b'\xff' * 6
if m.get('unicast'):
    source, target = address(m['ciaddr']), address(m['unicast'])
    subprocess.run(['ping', '-c1', '-W5', '-q', m['unicast']], stdout=subprocess.DEVNULL)
    to = bytes.fromhex(subprocess.check_output(['ip', 'neigh', 'show', m['unicast']], text=True).split('lladdr ')[1].split()[0].replace(':', ''))

def checksum(data):
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    total = (total & 0xffff) + (total >> 16)
    return 0xffff & ~((total & 0xffff) + (total >> 16))

header = struct.pack('!BBHHHBBH', 0x45, 0, 28 + len(body), 1, 0, 64, 17, 0) + source + target
header = header[:10] + struct.pack('!H', checksum(header)) + header[12:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 0))
s.send(to + mac + b'\x08\x00' + header + struct.pack('!HHHH', 68, 67, 8 + len(body), 0) + body)

end = time.monotonic() + wait
while (left := end - time.monotonic()) > 0:
    s.settimeout(left)
    try:
        f, where = s.recvfrom(65536)
    except TimeoutError:
        break
    if where[2] == socket.PACKET_OUTGOING or f[12:14] != b'\x08\x00' or f[23] != 17 or f[36:38] != b'\x00\x44':
        continue
    d = f[42:]
    if d[0] != 2 or d[28:34] != mac:
        continue
    found, at = {}, 240
    while d[at] != 255:
        if d[at] in found:
            found['twice'] = d[at]
        found[d[at]] = d[at + 2 : at + 2 + d[at + 1]].hex()
        at += 2 + d[at + 1]
    dotted = lambda b: socket.inet_ntoa(b)
    print(json.dumps({
        'type': int(found[53], 16), 'to': f[:6].hex(':'), 'source': dotted(f[26:30]), 'destination': dotted(f[30:34]),
        'sourcePort': int.from_bytes(f[34:36], 'big'), 'bytes': len(d), 'xid': int.from_bytes(d[4:8], 'big'),
        'flags': int.from_bytes(d[10:12], 'big'), 'ciaddr': dotted(d[12:16]), 'yiaddr': dotted(d[16:20]),
        'siaddr': dotted(d[20:24]), 'giaddr': dotted(d[24:28]), 'names': d[44:236].strip(b'\0').hex(), 'options': found,
    }))
    sys.exit()
print('null')
