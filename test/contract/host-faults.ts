/** Faults of a host that cut guests off, or soon will, and how `doctor` and `explain` name them (remedies.test.ts). */

/** An address outside, where a server listens. */
export const OUT = '10.9.0.1';

export interface Fault {
  title: string;
  engines: 'kernel' | 'user' | 'both';
  /** Run on the host. */
  cause: string;
  /** Removes what the remedy does not. */
  undo: string;
  finding: RegExp;
  message: RegExp;
  /** The verdict of `explain` about a TCP connection to outside, and what decides; `kernel/user` where they differ. */
  explain?: { verdict: string; rule: RegExp } | undefined;
  /** The guest's connections to outside do not end at once. */
  alive?: boolean;
  /** Fills in what the remedy leaves open, and selects one of several ways. */
  choose?: (commands: string[]) => string[];
}

/** A second way to outside, as a VPN has. */
export const VPN = 'ip link add vpn0 type veth peer name vpn1 netns OUTSIDE; ip addr add 10.8.0.2/24 dev vpn0; ip link set vpn0 up';

/** A rule of iptables in a table besides filter. */
function xtablesDrop(program: 'iptables-legacy' | 'iptables-nft', rule: string): Fault {
  const table = rule.split(' ')[1] as string;
  const printed = rule.slice(rule.indexOf('-A'));
  return {
    title: `${program} ${rule} -j DROP`,
    engines: 'kernel',
    cause: `${program} ${rule} -j DROP`,
    undo: `${program} -t ${table} -F`,
    finding: /^firewall\.rule$/,
    message: new RegExp(`another firewall \\(.*${table} [A-Z]+\\) drops .*: (${printed} -j DROP|rule \\d+ of chain ip ${table} FORWARD)$`),
    // what is asked of explain is not the answer
    explain: /ESTABLISHED|-o anka/.test(rule) ? undefined : { verdict: 'dropped', rule: new RegExp(`chain (ip )?${table}`) },
  };
}

/** A chain of nft that drops what no rule accepts, at a hook where anka adds no accept. */
function policyDrop(family: string, hook: string, further: readonly string[] = []): Fault {
  return {
    title: `nft drops by default at ${family} ${hook}`,
    engines: 'kernel',
    cause: `nft list table ${family} wall || nft '${`table ${family} wall { chain walled { type filter hook ${hook}; policy drop; }; }`}'`,
    undo: `nft delete table ${family} wall`,
    finding: /^firewall\.rule$/,
    message: new RegExp(`\\(chain ${family} wall walled\\) drops .*: policy drop of chain walled$`),
    explain: { verdict: 'dropped', rule: new RegExp(`chain ${family} wall walled`) },
    // for some answers there is no command
    choose: (commands) => [...commands.filter((c) => /^(nft|iptables)/.test(c)), ...further],
  };
}

export const FAULTS: Fault[] = [
  {
    title: 'a rule leads answers to guests into a VPN, as lookup 52 of Tailscale',
    engines: 'kernel',
    cause: 'ip route add 192.168.0.0/16 dev vpn0 table 52; ip rule add priority 5270 lookup 52',
    undo: 'ip rule del priority 5270; ip route flush table 52',
    finding: /^routing\.guests$/,
    message: /rule 5270 \(from all lookup 52\) sends out of vpn0 what is for guests of the (shared|host) network/,
  },
  {
    title: 'a rule prohibits what guests send',
    engines: 'kernel',
    cause: 'ip rule add priority 100 from 192.168.64.0/24 prohibit',
    undo: 'ip rule del priority 100',
    finding: /^routing\.outside$/,
    message: /rule 100 \(from 192\.168\.64\.0\/24 prohibit\) prohibits what guests of the shared network send/,
    explain: { verdict: 'refused', rule: /rule 100/ },
  },
  {
    title: 'a rule drops what guests send',
    engines: 'kernel',
    cause: 'ip rule add priority 100 iif anka-shared blackhole',
    undo: 'ip rule del priority 100',
    finding: /^routing\.outside$/,
    message: /rule 100 \(from all iif anka-shared blackhole\) drops what guests/,
    explain: { verdict: 'dropped', rule: /rule 100/ },
  },
  {
    title: 'a rule for guests leads to a table without a way out',
    engines: 'kernel',
    cause: 'ip route add unreachable default table 77; ip rule add priority 100 from 192.168.64.0/24 lookup 77',
    undo: 'ip rule del priority 100; ip route flush table 77',
    finding: /^routing\.outside$/,
    message: /rule 100 \(from 192\.168\.64\.0\/24 lookup 77\), route 'unreachable default' makes unreachable/,
    explain: { verdict: 'refused', rule: /rule 100/ },
  },
  {
    title: 'a rule prohibits what this host sends',
    engines: 'user',
    cause: 'ip rule add priority 100 prohibit',
    undo: 'true',
    finding: /^routing\.outside$/,
    message: /rule 100 \(from all prohibit\) prohibits what guests send/,
    explain: { verdict: 'refused', rule: /rule 100/ },
  },
  {
    title: 'a rule for the user drops what its programs send',
    engines: 'user',
    cause: 'ip rule add priority 100 uidrange 65534-65534 blackhole',
    undo: 'true',
    finding: /^routing\.outside$/,
    message: /rule 100 \(from all uidrange 65534-65534 blackhole\) drops what guests send/,
    explain: { verdict: 'refused', rule: /rule 100/ },
  },
  {
    title: 'a route of the main table prohibits the outside',
    engines: 'both',
    cause: `ip route add prohibit 128.0.0.0/1; ip route add prohibit ${OUT}/32`,
    undo: `ip route del prohibit ${OUT}/32`,
    finding: /^routing\.outside$/,
    message: /route 'prohibit 128\.0\.0\.0\/1' prohibits what guests/,
    explain: { verdict: 'refused', rule: /prohibit/ },
    // the remedy's route is the one for the outside as a whole
    choose: (commands) => [...commands, `ip route del prohibit ${OUT}/32`],
  },
  {
    title: 'the default route vanished',
    engines: 'both',
    cause: 'ip route del default; ip route del 10.9.0.0/24',
    undo: 'true',
    finding: /^routing\.none$/,
    message: /no route to outside/,
    explain: { verdict: 'refused', rule: /routing/ },
    choose: (commands) => ['ip route add 10.9.0.0/24 dev en0', ...commands.map((c) => c.replace('ROUTER', OUT))],
  },
  {
    title: 'iptables-legacy drops what it forwards',
    engines: 'kernel',
    cause: 'iptables-legacy -P FORWARD DROP; iptables-legacy -F FORWARD',
    undo: 'iptables-legacy -F FORWARD; iptables-legacy -P FORWARD ACCEPT',
    finding: /^firewall\.iptables-legacy$/,
    message: /iptables-legacy drops packets by default in chain ip filter FORWARD/,
    alive: true, // the engine adds its accept within ten seconds
    explain: { verdict: 'dropped', rule: /iptables-legacy/ },
  },
  {
    title: 'a rule of iptables-legacy drops what guests send',
    engines: 'kernel',
    cause: 'iptables-legacy -A FORWARD -s 192.168.64.0/24 -p tcp -j DROP',
    undo: 'iptables-legacy -F FORWARD',
    finding: /^firewall\.rule$/,
    message: /drops what guests of the shared network send to outside: -A FORWARD -s 192\.168\.64\.0\/24 -p tcp -j DROP/,
    explain: { verdict: 'dropped', rule: /iptables-legacy: chain FORWARD/ },
  },
  {
    title: 'a rule of nft drops what guests send',
    engines: 'kernel',
    cause:
      'nft "table ip wall { chain sieve { ip daddr 10.0.0.0/8 tcp dport 8000-9000 drop; ip daddr 203.0.113.0/24 tcp dport 443 drop; }; chain walled { type filter hook forward priority 0; iifname \\"anka*\\" jump sieve; }; }"',
    undo: 'nft delete table ip wall',
    finding: /^firewall\.rule$/,
    message: /drops what guests of the shared network send to outside: rule \d+ of chain ip wall sieve/,
    explain: { verdict: 'dropped', rule: /chain ip wall walled/ },
  },
  ...(['iptables-legacy', 'iptables-nft'] as const).flatMap((program) =>
    [
      '-t raw -A PREROUTING -i anka-shared',
      '-t raw -A PREROUTING -s 192.168.64.0/24 -p tcp -m tcp --dport 443:9000',
      '-t mangle -A PREROUTING -i anka-shared',
      '-t mangle -A PREROUTING -i en0 -p tcp -m conntrack --ctstate ESTABLISHED',
      '-t mangle -A FORWARD -i anka-shared -p tcp',
      '-t mangle -A POSTROUTING -s 192.168.64.0/24 -o en0',
      '-t mangle -A POSTROUTING -o anka-shared',
    ].map((rule) => xtablesDrop(program, rule)),
  ),
  policyDrop('inet', 'prerouting priority -350', ['nft insert rule inet wall walled iifname en0 accept']),
  policyDrop('ip', 'prerouting priority -150'),
  policyDrop('ip', 'postrouting priority -50'),
  policyDrop('inet', 'postrouting priority 200'),
  policyDrop('netdev', 'ingress device "anka-shared" priority 0'),
  { ...policyDrop('netdev', 'ingress device "en0" priority 0', ['nft insert rule netdev wall walled iifname en0 accept']), explain: undefined },
  { ...policyDrop('inet', 'output priority 0'), explain: undefined, alive: true },
  {
    title: 'nft drops the frames of bridges by default',
    engines: 'kernel',
    cause: 'nft "table bridge wall { chain walled { type filter hook input priority 0; policy drop; }; }"; nft flush chain bridge wall walled',
    undo: 'nft delete table bridge wall',
    finding: /^firewall\.nftables$/,
    message: /nftables drops packets by default in chain bridge wall walled \(input\)/,
    alive: true, // the engine adds its accept at once
  },
  {
    title: 'guests may not ping',
    engines: 'user',
    cause: 'sysctl -qw net.ipv4.ping_group_range="1 0"',
    undo: 'true',
    finding: /^rights\.ping$/,
    message: /guests cannot ping outside addresses/,
    alive: true,
  },
  {
    title: 'the host has few ports for connections',
    engines: 'user',
    cause: 'sysctl -qw net.ipv4.ip_local_port_range="40000 40020"',
    undo: 'true',
    finding: /^limits\.ports$/,
    message: /has 21 ports/,
    alive: true,
  },
  {
    title: 'the host answers no ARP',
    engines: 'kernel',
    alive: true,
    cause: 'sysctl -qw net.ipv4.conf.all.arp_ignore=8',
    undo: 'sysctl -qw net.ipv4.conf.all.arp_ignore=0',
    finding: /^arp$/,
    message: /arp_ignore is 8/,
  },
];

/** The commands of a remedy: what stands in quotes, or all of it. */
export function commandsOf(remedy: string): string[] {
  const quoted = [...remedy.matchAll(/'([^']+)'/g)].map((m) => m[1] as string);
  return quoted.length > 0 ? quoted : [remedy];
}
