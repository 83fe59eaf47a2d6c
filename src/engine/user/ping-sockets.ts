/**
 * Echoes of guests to outside, by the kernel's echo sockets (icmp(7)), which need no privilege where `net.ipv4.ping_group_range` has our group.
 *
 * Theory of operation: one socket per (card, guest address, identifier). The kernel gives it an identifier of its own; answers get the guest's back. Node takes the
 * descriptor as that of a datagram socket, which it is.
 * Limits: 64 sockets per network, the longest silent gives way, 30 s of silence each; errors about echoes (unreachable) are not carried back.
 */
import { createSocket, type Socket } from 'node:dgram';
import { closeSync } from 'node:fs';
import { openPingSocket } from '../../host/ffi.ts';
import { formatIpv4, parseIpv4 } from '../../wire/address.ts';
import { get16, put16 } from '../../wire/bytes.ts';
import { ICMP_HEADER, IcmpType, sealIcmp } from '../../wire/icmp.ts';

const MAX_SOCKETS = 64;
const SILENCE_MS = 30_000;
const IDENTIFIER = 4;

interface Pinger {
  socket: Socket;
  lastAt: number;
}

export class PingSockets {
  readonly #sockets = new Map<string, Pinger>();
  #refused = '';

  /** Why the last echo to outside could not be sent; empty when it could. */
  get refused(): string {
    return this.#refused;
  }

  /** Whether there is a right to send echoes now. */
  allowed(): boolean {
    const opened = openPingSocket();
    if ('fd' in opened) closeSync(opened.fd);
    return 'fd' in opened;
  }

  /** Sends a guest's echo request; false when there is no right to. `onReply` gets whole messages with the guest's identifier; `who` names card and address. */
  send(who: string, destination: number, request: Uint8Array, onReply: (source: number, message: Uint8Array) => void): boolean {
    const message = Buffer.from(request);
    const identifier = get16(message, IDENTIFIER);
    const key = `${who} ${identifier}`;
    let p = this.#sockets.get(key);
    if (p) this.#sockets.delete(key);
    else {
      if (this.#sockets.size >= MAX_SOCKETS) this.#end(this.#sockets.keys().next().value as string);
      const socket = this.#open(key, identifier, onReply);
      if (!socket) return false;
      p = { socket, lastAt: 0 };
    }
    p.lastAt = Date.now();
    this.#sockets.set(key, p);
    p.socket.send(message, 1, formatIpv4(destination), () => {}); // no route is a lost echo
    return true;
  }

  poll(now: number): void {
    for (const [key, p] of this.#sockets) if (now - p.lastAt >= SILENCE_MS) this.#end(key);
  }

  close(): void {
    for (const key of [...this.#sockets.keys()]) this.#end(key);
  }

  #open(key: string, identifier: number, onReply: (source: number, message: Uint8Array) => void): Socket | null {
    const opened = openPingSocket();
    if ('error' in opened) {
      this.#refused = opened.error;
      return null;
    }
    this.#refused = '';
    const socket = createSocket('udp4');
    socket.on('message', (bytes, from) => {
      if (bytes.length < ICMP_HEADER || bytes[0] !== IcmpType.echoReply) return;
      put16(bytes, IDENTIFIER, identifier);
      sealIcmp(bytes, 0, bytes.length, IcmpType.echoReply, 0);
      onReply(parseIpv4(from.address) ?? 0, bytes);
    });
    socket.on('error', () => this.#end(key));
    try {
      socket.bind({ fd: opened.fd });
    } catch (cause) {
      closeSync(opened.fd);
      this.#refused = (cause as Error).message;
      return null;
    }
    return socket;
  }

  #end(key: string): void {
    this.#sockets.get(key)?.socket.close();
    this.#sockets.delete(key);
  }
}
