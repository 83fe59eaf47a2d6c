/** Captures a card inside a namespace and prints each frame as a line of JSON, until its standard input ends. */
import type { CaptureSide, DesiredNic } from '../../src/engine/engine.ts';
import { openCapture } from '../../src/engine/kernel/capture.ts';

const [, , card, side, filter] = process.argv as [string, string, string, CaptureSide, string];
const capture = await openCapture(JSON.parse(card) as DesiredNic, side, filter ?? '');
process.stdin.on('end', () => capture.close()).resume();
console.log(JSON.stringify({ ready: capture.description }));
for (let frames = await capture.next(); frames !== null; frames = await capture.next())
  for (const f of frames) console.log(JSON.stringify({ outbound: f.outbound, hex: Buffer.from(f.data).toString('hex') }));
console.log(JSON.stringify({ counts: capture.counts() }));
process.exit(0);
