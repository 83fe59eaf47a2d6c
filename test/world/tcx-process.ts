/**
 * Prints the names of the programs at the tcx hooks of interface $2, by direction; `detach` removes all of them, as
 * another program may.
 */
import { readFileSync } from 'node:fs';
import { detachTcx, listTcx } from '../../src/host/tcx.ts';

const [, , device, detach] = process.argv as [string, string, string, string?];
const index = Number(readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8'));
const found = { ingress: listTcx(index, 'ingress'), egress: listTcx(index, 'egress') };
if (detach === 'detach') for (const direction of ['ingress', 'egress'] as const) for (const p of found[direction]) detachTcx(index, direction, p.id);
console.log(JSON.stringify({ ingress: found.ingress.map((p) => p.name), egress: found.egress.map((p) => p.name) }));
