/**
 * What a chaos run does, from its seed alone: phases of a few actions each, with pauses between them. A phase depends
 * on its number, and not on how those before it went, so that one phase can be repeated.
 */
import { pick, type Random, random } from '../world/random.ts';
import type { Site } from './site.ts';

/** Takes back what an action has done. It must succeed whatever else has happened. */
export type Undo = () => Promise<void> | void;

export interface Action {
  name: string;
  /** The only engine that it concerns. */
  engine?: 'kernel' | 'user';
  /** `random`: for choices of its own. */
  act(site: Site, random: Random): Promise<Undo | undefined> | Undo | undefined;
}

export interface Step {
  action: Action;
  random: Random;
  /** Pause after it, ms. */
  pause: number;
}

export interface Phase {
  number: number;
  steps: Step[];
  /** How long its effects stay before they are taken back, ms. */
  hold: number;
}

const MOST_STEPS = 4;
const LONGEST_PAUSE_MS = 400;
const LONGEST_HOLD_MS = 3000;
/** Apart, so that the generators of neighbouring phases have nothing in common. */
const PHASE_STRIDE = 7919;

/** Phase `number` of the run with this seed. The first phases take all actions in turn, in an order of the seed's. */
export function planPhase(seed: number, number: number, actions: readonly Action[]): Phase {
  const rnd = random(seed + number * PHASE_STRIDE);
  const count = 1 + Math.floor(rnd() ** 2 * MOST_STEPS);
  const order = shuffled(random(seed), actions);
  const chosen = new Set<Action>([order[(number - 1) % order.length] as Action]);
  while (chosen.size < count) chosen.add(pick(rnd, actions));
  const steps = shuffled(rnd, [...chosen]).map((action) => ({
    action,
    random: random(Math.floor(rnd() * 2 ** 32)),
    pause: rnd() * LONGEST_PAUSE_MS,
  }));
  return { number, steps, hold: rnd() ** 2 * LONGEST_HOLD_MS };
}

function shuffled<T>(rnd: Random, items: readonly T[]): T[] {
  const left = [...items];
  return items.map(() => left.splice(Math.floor(rnd() * left.length), 1)[0] as T);
}
