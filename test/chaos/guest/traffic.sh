#!/bin/sh
# traffic PEER: connections, datagrams and queries to the outside and to the other VM, for as long as the guest runs.
while :; do
  greet tcp 198.51.100.1 8080 2
  greet udp 10.9.0.1 8080 1
  peer=$(nslookup "$1.anka.internal" | awk '/^Name/ { n = 1 } n && /^Address/ { print $NF; exit }')
  [ -n "$peer" ] && greet tcp "$peer" 8080 2 && greet udp "$peer" 8080 1
  nslookup outside.test
  sleep 2
done >/dev/null 2>&1
