"""Keeps TCP connections and series of datagrams to servers going (old-connections.test.ts).

Commands, one a line: `open ID tcp|again|udp ADDRESS PORT [FROM]`, `close`, and `list`, which prints each flow as JSON:
how much was sent and answered, the last answer and all different ones, and how it ended. Each flow sends a byte every
20 ms, from its own port. `again` is TCP that connects again, as long as nothing has answered.
"""
import errno, json, select, socket, sys, time

PERIOD = 0.02
flows = {}


class Flow:
    def __init__(self, protocol, address, port, source=''):
        self.tcp = protocol != 'udp'
        self.again = protocol == 'again'
        self.state = {'sent': 0, 'answers': 0, 'last': '', 'heard': [], 'end': None}
        self.peer = (address, int(port))
        self.source = source
        self.connect()

    def connect(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM if self.tcp else socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        if self.source:
            self.socket.bind((self.source, 0))
        self.socket.connect_ex(self.peer)

    def failed(self, error):
        if self.tcp and error.errno not in (errno.EAGAIN, errno.ENOTCONN, errno.EINPROGRESS):
            self.end(errno.errorcode[error.errno])

    def end(self, why):
        if self.again and self.state['answers'] == 0:
            self.socket.close()
            return self.connect()
        self.state['end'] = self.state['end'] or why
        self.socket.close()

    def send(self):
        try:
            self.socket.send(b'x')
            self.state['sent'] += 1
        except OSError as error:
            # an error about an earlier datagram takes the turn of this one
            self.state['sent'] += not self.tcp
            self.failed(error)

    def receive(self):
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            return self.failed(error)
        if self.tcp and not data:
            return self.end('ended')
        self.state['answers'] += 1
        text = data.decode().split('\n')[0]
        if 'sees' in text:
            self.state['last'] = text
            if text not in self.state['heard']:
                self.state['heard'].append(text)

    @property
    def open(self):
        return self.state['end'] is None


def command(line):
    word, *rest = line.split()
    if word == 'open':
        flows[rest[0]] = Flow(*rest[1:])
    elif word == 'close':
        for flow in flows.values():
            flow.socket.close()
        flows.clear()
    else:
        print(json.dumps({key: flow.state for key, flow in flows.items()}), flush=True)


at = time.monotonic()
while True:
    by_socket = {flow.socket: flow for flow in flows.values() if flow.open}
    ready, _, _ = select.select([sys.stdin.buffer.raw, *by_socket], [], [], max(0, at - time.monotonic()))
    for one in ready:
        if one in by_socket:
            by_socket[one].receive()
        else:
            data = sys.stdin.buffer.raw.read(65536)
            if not data:
                sys.exit()
            for line in data.decode().splitlines():
                command(line)
    if time.monotonic() >= at:
        at = time.monotonic() + PERIOD
        for flow in list(flows.values()):
            if flow.open:
                flow.send()
