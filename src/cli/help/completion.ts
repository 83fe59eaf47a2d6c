/** Completion scripts for bash, zsh and fish, generated from the command tree. They ask `anka list` for VM names. */
import type { Command } from 'commander';
import { AnkaError } from '../../lib/errors.ts';
import { SETTINGS } from '../../lib/settings.ts';
import type { Session } from '../session.ts';
import { visibleCommands, visibleOptions } from '../tree/command.ts';

/** Every command (`network list`), with the words that may follow it. */
function nextWords(root: Command, prefix: string[] = []): Map<string, string[]> {
  const found = new Map<string, string[]>();
  const words = [...visibleCommands(root).map((c) => c.name()), ...visibleOptions(root).flatMap((o) => (o.long ? [o.long] : [])), '--help'];
  found.set(prefix.join(' '), words);
  for (const c of visibleCommands(root)) for (const [k, v] of nextWords(c, [...prefix, c.name()])) found.set(k, v);
  return found;
}

/** The same with the commands behind `modify VM`, where `VM` stands for every name. */
function allNextWords(root: Command, inner: Command): Map<string, string[]> {
  const all = nextWords(root);
  for (const [k, v] of nextWords(inner)) all.set(`modify VM${k ? ` ${k}` : ''}`, v);
  return all;
}

const COMMANDS_WITH_VM = 'capture explain show describe start stop suspend reboot clone delete run ssh console nc mount unmount modify cp';
const NETWORK_TYPES = 'shared host bridge disconnected';

function bash(all: Map<string, string[]>): string {
  const cases = [...all].map(([command, words]) => `    '${command}') list='${words.join(' ')}' ;;`).join('\n');
  return `# bash completion for anka. zsh loads it too, where variables named 'path' and 'words' are special
_anka() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at='' list='' i w
  for ((i = 1; i < COMP_CWORD; i++)); do
    w=\${COMP_WORDS[i]}
    case $w in -*) continue ;; esac
    if [ "$at" = modify ]; then w=VM; fi
    case "$at $w" in
      'modify VM'|'modify VM '*|' '*|*) at="\${at:+$at }$w" ;;
    esac
  done
  case $prev in
    -t|--type|--mode) COMPREPLY=($(compgen -W '${NETWORK_TYPES}' -- "$cur")); return ;;
    -b|--bridge) COMPREPLY=($(compgen -W "$(ls /sys/class/net)" -- "$cur")); return ;;
    config) COMPREPLY=($(compgen -W '${SETTINGS.map((s) => s.key).join(' ')}' -- "$cur")); return ;;
    from|to) [ "\${COMP_WORDS[1]}" = explain ] && { COMPREPLY=($(compgen -W "$(anka -j list 2>/dev/null | grep -o '"name":"[^"]*"' | cut -d'"' -f4)" -- "$cur")); return; } ;;
    --side) COMPREPLY=($(compgen -W 'inside outside' -- "$cur")); return ;;
    --token-file|--cert|--key|--client-ca) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    -w|--write) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    -a|--app) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    --mount) COMPREPLY=($(compgen -d -- "$cur")); return ;;
  esac
  case $at in
${cases}
  esac
  case " ${COMMANDS_WITH_VM} " in
    *" \${at%% *} "*) [ "\${at#modify VM}" = "$at" ] && list="$list $(anka -j list 2>/dev/null | grep -o '"name":"[^"]*"' | cut -d'"' -f4)" ;;
  esac
  COMPREPLY=($(compgen -W "$list" -- "$cur"))
}
complete -o default -F _anka anka
`;
}

function zsh(all: Map<string, string[]>): string {
  return `#compdef anka
autoload -U +X bashcompinit && bashcompinit
${bash(all)}# Loaded from fpath, this file is the body of _anka and runs once, for the first completion; _anka is redefined by now.
if [ "\${funcstack[1]}" = _anka ]; then _bash_complete -o default -F _anka; fi
`;
}

function fish(root: Command, inner: Command): string {
  const quote = (t: string): string => t.replaceAll("'", "\\'");
  const lines = [
    '# fish completion for anka',
    'function __anka_vms; anka -j list 2>/dev/null | string match -ar \'"name":"([^"]*)"\' | string match -v \'"name"*\'; end',
    'complete -c anka -f',
  ];
  for (const c of visibleCommands(root)) {
    lines.push(`complete -c anka -n __fish_use_subcommand -a ${c.name()} -d '${quote(c.summary())}'`);
    for (const o of visibleOptions(c))
      if (o.long)
        lines.push(
          `complete -c anka -n '__fish_seen_subcommand_from ${c.name()}' -l ${o.long.slice(2)}${o.short ? ` -s ${o.short.slice(1)}` : ''} -d '${quote(o.description)}'`,
        );
    for (const d of visibleCommands(c)) lines.push(`complete -c anka -n '__fish_seen_subcommand_from ${c.name()}' -a ${d.name()} -d '${quote(d.summary())}'`);
  }
  lines.push(`complete -c anka -n '__fish_seen_subcommand_from ${COMMANDS_WITH_VM}' -a '(__anka_vms)'`);
  for (const c of visibleCommands(inner)) lines.push(`complete -c anka -n '__fish_seen_subcommand_from modify' -a ${c.name()} -d '${quote(c.summary())}'`);
  lines.push(
    `complete -c anka -n '__fish_seen_subcommand_from modify' -s t -l type -x -a '${NETWORK_TYPES}'`,
    `complete -c anka -n '__fish_seen_subcommand_from capture' -l side -x -a 'inside outside'`,
    ...['token-file', 'cert', 'key', 'client-ca'].map((o) => `complete -c anka -n '__fish_seen_subcommand_from controller' -l ${o} -r -F`),
    `complete -c anka -n '__fish_seen_subcommand_from config' -a '${SETTINGS.map((x) => x.key).join(' ')}'`,
    `complete -c anka -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'`,
  );
  return `${lines.join('\n')}\n`;
}

/** Prints the script for a shell. `inner` is the tree behind `modify VM`. */
export function printCompletion(s: Session, root: Command, inner: Command, shell: string): void {
  const all = allNextWords(root, inner);
  const text = shell === 'bash' ? bash(all) : shell === 'zsh' ? zsh(all) : shell === 'fish' ? fish(root, inner) : null;
  if (text === null) throw new AnkaError('usage', `Invalid value for 'SHELL': '${shell}' is not one of 'bash', 'zsh', 'fish'.`);
  s.out.done(text, text.trimEnd());
}
