/** Declares the commands on local tags: push, pull, and registry, which there is none of. */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { acceptGiven, declare, GROUP_USAGE } from './command.ts';

const tags = () => import('../commands/tags.ts');

export function addTagCommands(root: Command, s: Session): void {
  push(root, s);
  pull(root, s);
  const registry = declare(root, 'registry', {
    summary: 'Commands on a registry of templates; anka has local tags only.',
    usage: GROUP_USAGE,
    examples: ['anka registry list'],
    hidden: true,
  });
  acceptGiven(registry, [
    '-r, --remote <URL>',
    '-a <URL>',
    '--insecure',
    '--cert <FILE>',
    '--key <FILE>',
    '--cacert <FILE>',
    '--api-key-id <ID>',
    '--api-key <KEY>',
    '-o, --oci-version <VERSION>',
    '-u, --user <USER>',
    '-p, --prefix <PREFIX>',
  ]);
  registry.option('-l, --local', 'Use the local tags of the VMs.');
  push(registry, s);
  pull(registry, s);
  registryCommand(registry, 'list', 'List the templates of the registry.', async (o) =>
    (await tags()).registryList(s, o.local ?? registry.opts()['local'] ?? false),
  ).option('-l, --local', 'List the VMs that have local tags.');
  registryCommand(registry, 'list-repos [NAME]', 'List the registries.', async (o) => (await tags()).registryRepos(s, o.default ?? false)).option(
    '-d, --default',
    'Show the default registry.',
  );
  acceptGiven(
    registryCommand(registry, 'show <VM> [PROPERTY...]', 'Show a template of the registry.', async () => (await tags()).noRegistry()),
    ['-t, --tag <TAG>', '--latest'],
  );
  acceptGiven(
    registryCommand(registry, 'revert <VM>', 'Delete a template of the registry.', async () => (await tags()).noRegistry()),
    ['-t, --tag <TAG>', '-a, --all', '--yes'],
  );
  for (const [spec, what] of [
    ['add <NAME> <URL>', 'Add a registry.'],
    ['set <NAME> [URL]', 'Set the default registry.'],
    ['remove [NAME...]', 'Remove a registry.'],
  ] as const)
    acceptGiven(
      registryCommand(registry, spec, what, async () => (await tags()).noRegistry()),
      ['-f, --force', '-a, --all', '--cert <FILE>', '--key <FILE>', '--cacert <FILE>', '--api-key-id <ID>', '--api-key <KEY>'],
    );
}

function registryCommand(registry: Command, spec: string, summary: string, run: (o: { local?: boolean; default?: boolean }) => Promise<void>): Command {
  const command = declare(registry, spec, { summary, examples: [`anka registry ${spec.split(' ')[0]}`], hidden: true });
  return command.action(() => run(command.opts()));
}

const path = (parent: Command): string => (parent.name() === 'anka' ? 'anka' : 'anka registry');

function push(parent: Command, s: Session): void {
  const command = declare(parent, 'push <VM> [REMOTE]', {
    summary: 'Save the disk of a stopped VM as a local tag.',
    details:
      "Memory size, CPU cores and disk size are saved with it. 'anka pull --local' restores it, 'anka clone --tag' clones it, 'anka show VM tag' lists the tags.",
    examples: [`${path(parent)} push --local --tag v1 vm1`],
  })
    .option('-t, --tag <TAG>', 'Set the name of the tag.')
    .option('-l, --local', 'Save it on this host; required, as there is no registry.')
    .option('-d, --description <TEXT>', 'Describe the tag.')
    .option('-f, --force', 'Replace a tag of this name.');
  acceptGiven(command, ['-v, --remote-vm <VM>', '-s, --shallow', '-q, --quiet']);
  command.action(async (vm, _remote, o) => (await tags()).push(s, vm, { ...o, local: o.local ?? parent.opts()['local'] }));
}

function pull(parent: Command, s: Session): void {
  const command = declare(parent, 'pull <VM> [REMOTE]', {
    summary: 'Restore the disk of a stopped VM from a local tag; what it has written since is lost.',
    examples: [`${path(parent)} pull --local --tag v1 vm1`],
  })
    .option('-t, --tag <TAG>', 'Restore this tag (default: the latest).')
    .option('-l, --local', 'Use the tags of this host; required, as there is no registry.')
    .option('-s, --shrink', 'Delete the other tags of the VM.');
  acceptGiven(command, ['--fetch-only', '--check-download-size', '--version <VERSION>', '-q, --quiet']);
  command.action(async (vm, _remote, o) => (await tags()).pull(s, vm, { ...o, local: o.local ?? parent.opts()['local'] }));
}
