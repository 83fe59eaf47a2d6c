#!/bin/sh
# probe PEER: tries each kind of traffic once, on new connections and all at the same time. It prints for each `ok WHAT`
# or `no WHAT: what came instead`. PEER is the other VM's name; its server's greeting begins with `guest`.
mine=$(ip -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4; exit }')
gw=$(ip route | awk '/^default/ { print $3; exit }')
echo "address $mine"
# a name's address as nslookup prints it
name() { nslookup "$1" 2>/dev/null | awk '/^Name/ { n = 1 } n && /^Address/ { print $NF; exit }'; }
is() { # what, expected pattern, output
  case "$3" in
    $2) echo "ok $1" ;;
    *) echo "no $1: ${3:-nothing}" ;;
  esac
}
is 'TCP to outside' 'outside sees *' "$(greet tcp 198.51.100.1 8080 30)" &
is 'UDP to outside' 'outside sees *' "$(greet udp 10.9.0.1 8080 30)" &
is 'TCP to the host' 'host sees *' "$(greet tcp "$gw" 8081 30)" &
is 'ping to outside' '*1 packets received*' "$(ping -c1 -W30 198.51.100.1 2>&1 | tail -2)" &
is 'ping to the gateway' '*1 packets received*' "$(ping -c1 -W30 "$gw" 2>&1 | tail -2)" &
is 'a name of outside' 203.0.113.1 "$(name outside.test)" &
peer=$(name "$1.anka.internal")
is "the name of $1" '192.168.*' "$peer"
is "TCP to $1" 'guest * sees *' "$(greet tcp "${peer:-0.0.0.0}" 8080 30)" &
is "UDP to $1" 'guest * sees *' "$(greet udp "${peer:-0.0.0.0}" 8080 30)" &
wait
echo 'end of probe'
