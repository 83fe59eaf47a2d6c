/** Interfaces, addresses and routes of the host change. Without `engine`: those that are not anka's. */
import { pick } from '../../world/random.ts';
import type { Action } from '../plan.ts';
import { HOST, OTHER, OUTSIDE, type Site } from '../site.ts';

const BRIDGE = 'anka-shared';

/** What a shell line does to the host's own interface, its addresses and routes. */
const ofUplink = (name: string, line: string): Action => ({
  name,
  act(site) {
    site.world.host.attempt(line.replaceAll('UPLINK', site.uplink()));
    return () => site.restoreUplink();
  },
});

/** What a shell line does to an interface of anka's; anka has to repair it. */
const ofOurs = (name: string, line: string): Action => ({
  name,
  engine: 'kernel',
  act(site, random) {
    const g = pick(random, site.guests);
    site.world.host.attempt(line.replaceAll('BRIDGE', BRIDGE).replaceAll('TAP', `anka${g.uuid.slice(0, 8)}`));
    return undefined;
  },
});

function renameUplink(site: Site): void {
  site.rename(site.uplink(), 'en9');
  site.world.host.attempt(`ip link set en9 up; ip route replace default via ${OUTSIDE}`);
}

export const INTERFACE_ACTIONS: Action[] = [
  ofUplink('remove the default route', 'ip route del default'),
  ofUplink('remove the host’s address', `ip addr del ${HOST}/24 dev UPLINK`),
  ofUplink('take the host’s interface down', 'ip link set UPLINK down'),
  ofUplink('give the host’s interface another address', `ip addr add ${OTHER}/24 dev UPLINK && ip addr del ${HOST}/24 dev UPLINK`),
  {
    name: 'rename the host’s interface',
    act(site) {
      renameUplink(site);
      return () => site.restoreUplink();
    },
  },
  {
    name: 'add and remove interfaces',
    act(site) {
      site.world.host.run('for i in 1 2 3 4; do ip link add more$i type veth peer name evenmore$i; ip addr add 172.20.$i.1/24 dev more$i; done');
      return () => void site.world.host.attempt('for i in 1 2 3 4; do ip link del more$i; done');
    },
  },
  ofOurs('delete the bridge', 'ip link del BRIDGE'),
  ofOurs('take the bridge down', 'ip link set BRIDGE down'),
  ofOurs('rename the bridge', 'ip link set BRIDGE down; ip link set BRIDGE name other0; ip link set other0 up'),
  ofOurs('remove the gateway’s address', 'ip addr flush dev BRIDGE'),
  ofOurs('take a tap out of its bridge', 'ip link set TAP nomaster'),
  ofOurs('take a tap down', 'ip link set TAP down'),
  ofOurs('delete a tap', 'ip link del TAP'),
  ofOurs('rename a tap', 'ip link set TAP down; ip link set TAP name other1; ip link set other1 up'),
  ofOurs('another MTU and MAC address of the bridge', 'ip link set BRIDGE mtu 1280 address 02:00:00:00:00:99'),
  ofOurs('remove the route to the guests', 'ip route flush dev BRIDGE'),
];
