/** Processes are killed, or stopped for a while. */
import { pick } from '../../world/random.ts';
import type { Action } from '../plan.ts';

export const PROCESS_ACTIONS: Action[] = [
  {
    name: 'kill -9 the helper processes',
    act(site) {
      site.signal(site.helpers(), 'SIGKILL');
      return undefined;
    },
  },
  {
    name: 'kill -9 the helper processes twice in a row',
    async act(site) {
      const first = site.helpers();
      site.signal(first, 'SIGKILL');
      const second = site.helpers().filter((pid) => !first.includes(pid));
      site.signal(second, 'SIGKILL');
      return undefined;
    },
  },
  {
    name: 'stop the helper processes for a while',
    act(site) {
      const pids = site.helpers();
      site.signal(pids, 'SIGSTOP');
      return () => site.signal(pids, 'SIGCONT');
    },
  },
  {
    name: 'kill -9 the daemon',
    act(site) {
      site.endDaemon((pid) => site.signal([pid], 'SIGKILL'));
      return undefined;
    },
  },
  {
    name: 'kill -9 the daemon and the helper processes',
    act(site) {
      site.endDaemon((pid) => site.signal([pid, ...site.helpers()], 'SIGKILL'));
      return undefined;
    },
  },
  {
    name: 'SIGTERM to the daemon',
    act(site) {
      site.endDaemon((pid) => site.signal([pid], 'SIGTERM'));
      return undefined;
    },
  },
  {
    name: 'stop the daemon for a while',
    act(site) {
      const pid = site.anka.daemonPid();
      site.signal([pid], 'SIGSTOP');
      return () => site.signal([pid], 'SIGCONT');
    },
  },
  {
    name: 'kill -9 a guest',
    act(site, random) {
      site.signal(site.qemu(pick(random, site.guests)), 'SIGKILL');
      return undefined;
    },
  },
  {
    name: 'stop a guest for a while',
    act(site, random) {
      const pids = site.qemu(pick(random, site.guests));
      site.signal(pids, 'SIGSTOP');
      return () => site.signal(pids, 'SIGCONT');
    },
  },
  {
    name: 'a guest sets its own link down for a while',
    act(site, random) {
      const g = pick(random, site.guests);
      // its kernel forgets the routes of a link that is down
      void g.console.run(`r=$(ip route | grep ^default); ip link set eth0 down; sleep ${1 + Math.floor(random() * 3)}; ip link set eth0 up; ip route add $r`);
      return undefined;
    },
  },
];
