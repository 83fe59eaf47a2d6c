import type { Command } from 'commander';
import { describe, expect, test } from 'vitest';
import { examplesOf } from './command.ts';
import { modifyTree } from './modify.ts';
import { buildTree } from './tree.ts';

/** Every command below one, with the words that lead to it. */
function commandsBelow(command: Command, prefix: string): { words: string; command: Command }[] {
  return command.commands.flatMap((c) => [{ words: `${prefix}${c.name()}`, command: c }, ...commandsBelow(c, `${prefix}${c.name()} `)]);
}

const commands = [...commandsBelow(buildTree(null), ''), ...commandsBelow(modifyTree(null, 'VM'), 'modify VM ')];

describe('B84: help texts', () => {
  test.each(commands)('$words', ({ words, command }) => {
    const sentence = /^[A-Z].*\.$/;
    expect(command.summary()).toMatch(sentence);
    expect(command.summary().length, 'two lines of the list of commands').toBeLessThan(150);
    expect(command.description()).toMatch(sentence);
    for (const o of command.options) expect(o.description, o.flags).toMatch(sentence);
    const examples = examplesOf(command);
    expect(examples.length).toBeGreaterThan(0);
    const [name] = words.split(' ');
    for (const example of examples) expect(example).toMatch(new RegExp(`anka (-j )?${name}\\b`));
  });
});
