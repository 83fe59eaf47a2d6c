/** Captures frames on an interface with tcpdump, and sends raw frames. */
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Namespace, until, type World } from './world.ts';

let count = 0;

export class Sniffer {
  readonly file: string;
  #end: () => Promise<void>;

  private constructor(file: string, end: () => Promise<void>) {
    this.file = file;
    this.#end = end;
  }

  /** Starts a capture of whole frames; resolves when it runs. `direction`: inbound or outbound frames only. */
  static async start(world: World, ns: Namespace, device: string, direction: 'inout' | 'in' | 'out' = 'inout'): Promise<Sniffer> {
    const file = join(world.dir, `sniff-${count++}.pcap`);
    const child = ns.spawn(['sh', '-c', `exec tcpdump -Z root -i ${device} -Q ${direction} -n -s 0 -U --immediate-mode -B 65536 -w ${file} 2>&1`]);
    let said = '';
    child.stdout?.on('data', (d: Buffer) => {
      said += d.toString();
    });
    const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    await until(`tcpdump listens on ${device}`, () => said.includes('listening on'));
    return new Sniffer(file, () => {
      child.kill('SIGINT');
      return exited;
    });
  }

  /** Frames captured so far, as hex. */
  frames(): string[] {
    const b = readFileSync(this.file);
    const found: string[] = [];
    for (let at = 24; at + 16 <= b.length; ) {
      const length = b.readUInt32LE(at + 8);
      if (at + 16 + length > b.length) break;
      found.push(b.toString('hex', at + 16, at + 16 + length));
      at += 16 + length;
    }
    return found;
  }

  /** Whether a frame captured so far contains these bytes (hex). */
  sees(bytes: string): boolean {
    return readFileSync(this.file).includes(Buffer.from(bytes, 'hex'));
  }

  /** Stops the capture and returns the whole file. */
  async stop(): Promise<Buffer> {
    await this.#end();
    return readFileSync(this.file);
  }
}

/** Sends raw frames (hex) out of a namespace's interface, of any length. */
export async function sendRaw(ns: Namespace, device: string, frames: readonly string[]): Promise<void> {
  const program = `import socket,sys
s=socket.socket(17,3)
s.setsockopt(1,7,1<<22)
s.bind(('${device}',0))
for l in sys.stdin: s.send(bytes.fromhex(l))`;
  const child = ns.spawn(['python3', '-c', program]);
  child.stdin?.end(frames.map((f) => `${f}\n`).join(''));
  const status = await new Promise((resolve) => child.once('exit', resolve));
  if (status !== 0) throw new Error('frames were not sent');
}

/** A long-lived sender of raw frames out of a namespace's interface. */
export class FrameSender {
  readonly #child: ChildProcess;

  constructor(ns: Namespace, device: string) {
    const program = `import socket,sys
s=socket.socket(17,3)
s.bind(('${device}',0))
while True:
    l=sys.stdin.readline()
    if not l: break
    s.send(bytes.fromhex(l))`;
    this.#child = ns.spawn(['python3', '-c', program]);
  }

  /** Each as hex. */
  send(frames: readonly string[]): void {
    this.#child.stdin?.write(frames.map((f) => `${f}\n`).join(''));
  }
}

/**
 * Packets of a display filter that tshark finds malformed or with a wrong checksum, one line each.
 */
export function badPackets(ns: Namespace, file: string, of = 'frame'): string[] {
  const on = ['ip', 'tcp', 'udp'].map((p) => `-o ${p}.check_checksum:TRUE`).join(' ');
  const bad = ['ip', 'tcp', 'udp', 'icmp', 'icmpv6'].map((p) => `${p}.checksum.status == 0`).join(' || ');
  const lines = ns.run(`tshark -n -r ${file} ${on} -Y '(${of}) && (${bad} || _ws.malformed)' 2>/dev/null`);
  return lines.split('\n').filter((l) => l !== '');
}
