/**
 * What must work after every phase: each kind of traffic on new connections, names, leases, rules, and what `show` and
 * `doctor` report.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DoctorFinding, VmShow } from '../../src/api/types.ts';
import { greet } from '../contract/guest-tools.ts';
import { restore } from './restore.ts';
import { type Guest, HOST, type Rule, type Site } from './site.ts';

/** Without any progress for so long, nothing heals (ms). */
const STALL_MS = 300_000;
const PAUSE_MS = 300;
/** A client waits so long for a greeting (s). */
const GREETING_S = 30;
/** More than any number of failed checks: what cannot be checked yet counts so much. */
const NOT_YET = 1000;

/** Restores what was changed, and waits until everything works. Returns how long it took, ms. */
export async function heal(site: Site, log: (text: string) => void): Promise<number> {
  const began = performance.now();
  let best = Number.POSITIVE_INFINITY;
  let progress = began;
  let last = '';
  for (;;) {
    const { wrong, count } = await examine(site);
    if (count === 0) return performance.now() - began;
    if (wrong.join() !== last) log(`not yet: ${wrong.join('; ')}`);
    last = wrong.join();
    if (count < best) {
      best = count;
      progress = performance.now();
    }
    if (performance.now() - progress > STALL_MS) throw new Error(`nothing has healed for ${STALL_MS / 1000} s: ${wrong.join('; ')}`);
    await sleep(PAUSE_MS);
  }
}

/** `count`: how far it is from healthy. */
async function examine(site: Site): Promise<{ wrong: string[]; count: number }> {
  try {
    const undone = await restore(site);
    if (undone.length > 0) return { wrong: undone, count: NOT_YET + undone.length };
    await Promise.all(site.guests.map((g) => site.wake(g)));
    const wrong = (await Promise.all([...site.guests.map((g) => checkGuest(site, g)), checkDoctor(site)])).flat();
    return { wrong, count: wrong.length };
  } catch (cause) {
    return { wrong: [(cause as Error).message], count: 2 * NOT_YET };
  }
}

async function checkGuest(site: Site, g: Guest): Promise<string[]> {
  const [inside, outside] = await Promise.all([probe(site, g), Promise.all(g.rules.map((r) => checkRule(site, g, r)))]);
  const shown = await site.read<VmShow>(`/v1/vms/${g.uuid}`);
  const wrong: string[] = [];
  if (shown.ip === undefined || shown.ip !== inside.address) wrong.push(`its address is ${inside.address}, but is shown as ${shown.ip}`);
  if (shown.network?.healthy !== true) wrong.push(`shown as unhealthy: ${shown.message}`);
  if (shown.inactive_rules) wrong.push(`inactive rules: ${JSON.stringify(shown.inactive_rules)}`);
  // of one guest: a login costs an emulated CPU seconds
  const login = g === site.guests[0] ? await site.command(`run ${g.uuid} echo in`) : null;
  if (login && login.stdout !== 'in\n') wrong.push(`anka run: status ${login.status}: ${login.stderr.trim()}`);
  return [...inside.wrong, ...outside.flat(), ...wrong].map((text) => `${g.name}: ${text}`);
}

/** What the guest itself reaches. */
async function probe(site: Site, g: Guest): Promise<{ address: string; wrong: string[] }> {
  const said = (await g.console.run(`probe ${site.other(g).name}`)) ?? '';
  const address = /^address (\S+)/m.exec(said)?.[1] ?? 'none';
  const wrong = said.split('\n').flatMap((l) => (l.startsWith('no ') ? l.slice(3) : []));
  return { address, wrong: said.includes('end of probe') ? wrong : [...wrong, 'it does not answer on its console'] };
}

/** A rule, from outside and from the host. */
async function checkRule(site: Site, g: Guest, r: Rule): Promise<string[]> {
  const from = { outside: site.world.outside, 'the host': site.world.host };
  const tries = Object.entries(from).map(async ([name, ns]) => {
    const said = await greet(ns, r.protocol, HOST, r.hostPort, GREETING_S);
    return said.startsWith(`guest ${g.name} sees `) ? [] : [`${r.protocol} port ${r.hostPort} from ${name}: ${said}`];
  });
  return (await Promise.all(tries)).flat();
}

/** Findings that were there before anything happened are the host's own; null before they are known. */
let ownFindings: Set<string> | null = null;
/** It says what happened to a helper process that the chaos stopped, for as long as the daemon runs. */
const HISTORY = 'process.hung';

export async function learnFindings(site: Site): Promise<void> {
  ownFindings = new Set([HISTORY, ...(await findings(site)).map((f) => f.id)]);
}

async function checkDoctor(site: Site): Promise<string[]> {
  const own = ownFindings;
  return own === null ? [] : (await findings(site)).filter((f) => !own.has(f.id)).map((f) => `doctor: ${f.level}: ${f.message}`);
}

async function findings(site: Site): Promise<DoctorFinding[]> {
  return (await site.read<DoctorFinding[]>('/v1/doctor')).filter((f) => f.level !== 'ok');
}
