/** The CLI changes VMs, rules and settings, while all else happens. What was changed is set right afterwards. */
import { setTimeout as sleep } from 'node:timers/promises';
import { pick, type Random } from '../../world/random.ts';
import type { Action } from '../plan.ts';
import type { Guest } from '../site.ts';

/** A command at the same time as what follows. It may fail, but neither hang nor throw. */
const command = (name: string, line: (g: Guest, random: Random) => string): Action => ({
  name: `anka: ${name}`,
  act(site, random) {
    site.begun(line(pick(random, site.guests), random));
    return undefined;
  },
});

export const COMMAND_ACTIONS: Action[] = [
  command('move a VM to another network', (g, rnd) => `modify ${g.uuid} set network-card -t ${pick(rnd, ['host', 'disconnected'])}`),
  command('isolate a VM', (g) => `modify ${g.uuid} set network-card --no-local`),
  command('give a VM a MAC address', (g) => `modify ${g.uuid} set network-card -m 52:54:00:00:00:0${g.name.slice(2)}`),
  command('reserve an address for a VM', (g, rnd) => `modify ${g.uuid} set network-card --ip 192.168.64.${200 + Math.floor(rnd() * 50)}`),
  command('detach a VM’s card', (g) => `modify ${g.uuid} delete network-card`),
  command('delete a rule', (g) => `modify ${g.uuid} delete port-forwarding web`),
  command('add a rule', (g, rnd) => `modify ${g.uuid} add port-forwarding -g 22 more${Math.floor(rnd() * 9)}`),
  command('rename a VM', (g, rnd) => `modify ${g.uuid} set name renamed${Math.floor(rnd() * 9)}`),
  command('stop a VM', (g) => `stop -f ${g.uuid}`),
  command('suspend a VM', (g) => `suspend ${g.uuid}`),
  command('reboot a VM', (g) => `reboot -f ${g.uuid}`),
  command('clone a VM', (g, rnd) => `clone ${g.uuid} clone${Math.floor(rnd() * 9)}`),
  command('create a VM', (_g, rnd) => `create -m 96M -c 1 -d 1G extra${Math.floor(rnd() * 9)}`),
  command('renumber a network', (_g, rnd) => `config shared_subnet 192.168.${pick(rnd, [70, 71])}.0/24`),
  command('other resolvers', (_g, rnd) => `config dns_servers ${pick(rnd, ['10.9.0.1', '203.0.113.53', '2001:db8::53'])}`),
  command('doctor', () => 'doctor'),
  command('explain', (g) => `explain ${g.uuid} tcp 198.51.100.1:8080`),
  command('reset the networks, which is refused', () => 'network reset'),
  command('log in', (g) => `run ${g.uuid} true`),
  {
    name: 'anka: capture',
    async act(site, random) {
      const child = site.world.host.spawn(['sh', '-c', `exec ${site.anka.commandLine(`capture ${pick(random, site.guests).uuid}`)} >/dev/null 2>&1`]);
      await sleep(random() * 1000);
      return () => void child.kill('SIGKILL');
    },
  },
  {
    name: 'anka: daemon stop',
    act(site) {
      site.daemon = null;
      site.begun('daemon stop');
      return undefined;
    },
  },
];
