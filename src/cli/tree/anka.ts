/** Declares commands of other versions of Anka that mean nothing here: licenses, displays, USB devices, archives. */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { acceptGiven, declare, GROUP_USAGE } from './command.ts';

const anka = () => import('../commands/anka.ts');

export function addAnkaCommands(root: Command, s: Session): void {
  addLicense(root, s);
  const usb = declare(root, 'usb', {
    summary: 'Commands on USB devices, which anka does not pass to guests.',
    usage: GROUP_USAGE,
    examples: ['anka usb list'],
    hidden: true,
  });
  declare(usb, 'list [DEVICE...]', { summary: 'List the USB devices for guests, of which there are none.', examples: ['anka usb list'], hidden: true }).action(
    async () => (await anka()).nothing(s, []),
  );
  const refuse = (parent: Command, spec: string, what: string, flags: readonly string[] = []): void => {
    const words = [...(parent === usb ? ['usb'] : []), ...spec.split(' ')].filter((w) => /^[a-z]/.test(w));
    acceptGiven(declare(parent, spec, { summary: `Not supported: ${what}.`, examples: [`anka ${words.join(' ')}`], hidden: true }), flags).action(async () =>
      (await anka()).unsupported(what),
    );
  };
  const devices = 'USB devices are not passed to guests';
  refuse(usb, 'claim <DEVICE...>', devices, ['-n, --claim-name <NAME>']);
  refuse(usb, 'release [DEVICE...]', devices, ['-a, --all']);
  refuse(root, 'attach <VM> <DEVICE...>', devices);
  refuse(root, 'detach <VM> [DEVICE...]', devices, ['-a, --all']);
  refuse(root, 'view <VM>', "there is no display; 'anka console VM' opens the serial console", [
    '-d, --display <N>',
    '-s, --screenshot',
    '--pbpaste',
    '--pbcopy',
    '--click <EVENTS>',
    '-o, --output <FILE>',
  ]);
  const archives = "a VM is copied with 'anka clone', and kept with 'anka push --local'";
  refuse(root, 'export <VM> <FILE>', archives, ['-t, --tag <TAG>', '-c, --copy']);
  refuse(root, 'import [FILE]', archives, ['--fetch-only']);
  const log = declare(root, 'log [ACTION]', {
    summary: "Print the end of the daemon's log; the action clean does nothing, as logs are limited in size.",
    examples: ['anka log'],
    hidden: true,
  });
  acceptGiven(log, ['-s, --since <DATE>', '-t, --till <DATE>', '-a, --all', '-l, --level <LEVEL>']).action(async (action) =>
    action === 'clean' ? (await anka()).nothing(s, {}) : (await anka()).printLog(s),
  );
}

function addLicense(root: Command, s: Session): void {
  const license = declare(root, 'license', {
    summary: 'Commands on licenses; anka needs none.',
    usage: GROUP_USAGE,
    examples: ['anka license show'],
    hidden: true,
  });
  acceptGiven(declare(license, 'show [FILE]', { summary: 'Show that no license is needed.', examples: ['anka license show'], hidden: true }), [
    '-k, --key <KEY>',
  ]).action(async () => (await anka()).showLicense(s));
  for (const spec of ['activate [KEY]', 'validate [FILE]', 'remove', 'accept-eula'])
    acceptGiven(
      declare(license, spec, { summary: 'Nothing: no license is needed.', examples: [`anka license ${spec.split(' ')[0]}`], hidden: true }),
      spec.startsWith('activate') ? ['-f, --force', '--cid <ID>', '--hostid <ID>', '--cores <N>', '-o, --output <FILE>', '-k, --key <KEY>'] : [],
    ).action(async () => (await anka()).noLicense(s));
}
