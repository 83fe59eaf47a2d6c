/** Tables and settings of the host's kernel are flushed, deleted or changed. */
import { pick } from '../../world/random.ts';
import type { Action } from '../plan.ts';

/** Deletes all entries of connection tracking (IPCTNL_MSG_CT_DELETE without a tuple). */
const FLUSH_CONNTRACK =
  'python3 -c "import socket,struct; s=socket.socket(16,3,12); s.bind((0,0)); s.send(struct.pack(\'=IHHIIBBH\',20,258,5,1,0,0,0,0)); s.recv(4096)"';
const TABLES = ['ip anka', 'ip6 anka', 'bridge anka', 'netdev anka'];

const shell = (name: string, line: string, engine?: 'kernel'): Action => ({
  name,
  ...(engine ? { engine } : {}),
  act(site) {
    site.world.host.attempt(line);
    return undefined;
  },
});

export const KERNEL_STATE_ACTIONS: Action[] = [
  shell('flush the ruleset', 'nft flush ruleset', 'kernel'),
  shell('flush connection tracking', FLUSH_CONNTRACK, 'kernel'),
  shell('flush the neighbours', 'ip neigh flush all; ip -6 neigh flush all; ip route flush cache'),
  {
    name: 'delete a table',
    engine: 'kernel',
    act(site, random) {
      site.world.host.attempt(`nft delete table ${pick(random, TABLES)}`);
      return undefined;
    },
  },
  shell('flush the chains of a table', 'nft flush table ip anka', 'kernel'),
  shell('turn forwarding off', 'sysctl -qw net.ipv4.ip_forward=0', 'kernel'),
  {
    name: 'another firewall drops what is forwarded',
    engine: 'kernel',
    act(site) {
      site.world.host.attempt("nft 'add table inet strict; add chain inet strict f { type filter hook forward priority 0; policy drop; }'");
      return () => void site.world.host.attempt('nft delete table inet strict');
    },
  },
];
