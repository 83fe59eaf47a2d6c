/** ACKs wait for a sign of life of the host's peer, so that a guest finds a dead one (RFC 9293 3.8.4, RFC 5482). */
import { expect, test } from 'vitest';
import { TcpRig } from '../../../test/sim/tcp-rig.ts';

/** A flow whose peer was last heard when it connected, long ago. */
function silent(): TcpRig {
  const rig = new TcpRig().established();
  rig.heardAt = rig.now;
  return rig.pass(5000);
}

test('a keep-alive is answered once the peer has answered the kernel (RFC 9293 3.8.4)', () => {
  const rig = silent();
  rig.guest('.', { seq: 0 });
  expect(rig.take()).toEqual(['ask the peer']);
  rig.pass(30);
  expect(rig.take()).toEqual([]);
  rig.heardAt = rig.now;
  rig.pass(100);
  expect(rig.take()).toEqual(['do not ask the peer', '. seq 1 ack 1']);
});

test('keep-alives are never answered for a dead peer, and the guest’s reset ends both sides', () => {
  const rig = silent();
  for (let i = 0; i < 3; i++) rig.guest('.', { seq: 0 }).pass(2000);
  expect(rig.take()).toEqual(['ask the peer']);
  rig.guest('R.', { seq: 1 });
  expect(rig.take()).toEqual(['reset', 'do not ask the peer']);
  expect(rig.machine.nextAt()).toBe(Number.POSITIVE_INFINITY);
});

test('a keep-alive soon after a sign of life is answered at once', () => {
  const rig = silent();
  rig.heardAt = rig.now - 50;
  rig.guest('.', { seq: 0 });
  expect(rig.take()).toEqual(['. seq 1 ack 1']);
});

test('payload for a silent peer is passed on, and not acknowledged (RFC 5482: the user timeout runs)', () => {
  const rig = silent();
  rig.guest('P.', { seq: 1, data: 'hello' });
  expect(rig.take()).toEqual(['write 5']);
  // the guest's retransmissions are not answered, nor passed on again
  rig.pass(200).guest('P.', { seq: 1, data: 'hello' }).pass(10_000);
  expect(rig.take()).toEqual(['ask the peer']);
  rig.heardAt = rig.now;
  rig.pass(1000);
  expect(rig.take()).toEqual(['do not ask the peer', '. seq 1 ack 6']);
});

test('more payload while an ACK is held raises what the sign of life acknowledges', () => {
  const rig = silent();
  rig.guest('P.', { seq: 1, data: 'hello' }).guest('P.', { seq: 6, data: 'again' });
  expect(rig.take()).toEqual(['write 5', 'write 5']);
  rig.heardAt = rig.now + 1;
  rig.pass(2);
  expect(rig.take()).toEqual(['. seq 1 ack 11']);
});

test('an answer is a sign of life, and carries the ACK', () => {
  const rig = silent();
  rig.guest('P.', { seq: 1, data: 'hello' }).take();
  rig.host('world');
  expect(rig.take()).toEqual(['P. seq 1 ack 6 len 5']);
  rig.pass(50).guest('P.', { seq: 6, ack: 6, data: 'more' });
  expect(rig.take()).toEqual(['write 4', '. seq 6 ack 10']);
});

test('what is sent to the guest while its payload is held repeats the old acknowledgement and right edge', () => {
  const windows: [number, number][] = [];
  const rig = new TcpRig().established();
  rig.onSegment = (s) => windows.push([s.ack, s.window]);
  rig.guest('P.', { seq: 1, data: 'first' });
  rig.heardAt = rig.now;
  rig.pass(5000).guest('P.', { seq: 6, data: 'hello' });
  rig.machine.onDrained(rig.flow!, rig.now);
  // an attacker's segment far outside the window gets a challenge ACK (RFC 5961)
  rig.guest('S', { seq: 1_000_000 });
  expect(windows).toHaveLength(2);
  expect(windows[1]).toEqual(windows[0]);
});

test('a FIN is acknowledged when the peer shows a sign of life; its own FIN is one', () => {
  const rig = silent();
  rig.guest('F.', { seq: 1 });
  expect(rig.take()).toEqual(['end']);
  rig.machine.onHostFin(rig.flow!, rig.now);
  expect(rig.take()).toEqual(['F. seq 1 ack 2']);
  rig.guest('.', { seq: 2, ack: 2 });
  expect(rig.take()).toEqual(['close']);
});

test('looks for a sign of life at growing intervals, and at none once the flow is gone', () => {
  const rig = silent();
  let looks = 0;
  const heardAt = rig.heardAt;
  Object.defineProperty(rig, 'heardAt', {
    get: () => {
      looks++;
      return heardAt;
    },
  });
  rig.guest('P.', { seq: 1, data: 'hello' }).pass(60_000);
  // each look reads the field twice: 2, 8, 16, … 500 ms apart
  expect(looks / 2).toBeLessThan(150);
  rig.guest('R', { seq: 6 });
  const before = looks;
  rig.pass(60_000);
  expect(looks).toBe(before);
});
