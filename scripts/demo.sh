#!/usr/bin/env bash
# From an empty machine to a running VM that is reached by ssh from this host and from outside.
#   demo.sh           does it, again as often as you like
#   demo.sh --clean   removes every trace of it
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
VM=demo
OUT=anka-demo           # a network namespace that plays a machine outside
OUT_IP=198.18.77.2      # RFC 2544 addresses: nobody's
HOST_IP=198.18.77.1
RULE=ssh
anka() { node dist/cli/main.js "$@"; }
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
answers=$(mktemp)
trap 'rm -f "$answers"; [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true' EXIT

if [ "$(id -u)" != 0 ]; then
  echo "The demo makes network interfaces, which needs root. Run:"
  echo "  sudo npm run demo${1:+ -- $1}"
  exit 1
fi

remove_outside() {
  ip netns pids "$OUT" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns del "$OUT" 2>/dev/null || true
  ip link del ankademo0 2>/dev/null || true
}

if [ "${1:-}" = --clean ]; then
  say "Removing the demo"
  remove_outside
  if [ -e dist/cli/main.js ] && [ -e /var/lib/anka/anka.db ]; then
    anka delete --yes "$VM" 2>/dev/null || true
    if [ "$(anka -j list | grep -c '"uuid"')" = 0 ]; then
      anka network reset
      anka daemon stop
      rm -rf /var/lib/anka /run/anka
    else
      echo "Other VMs are there: their networks, the daemon and /var/lib/anka stay."
      anka list
    fi
  fi
  echo "Nothing is left. Debian packages that were installed stay; so do node_modules and dist in this folder."
  exit 0
fi

say "1. What is needed"
bash scripts/setup.sh --demo
node scripts/build.mjs
echo "anka $(anka version | cut -d' ' -f3) is built"

say "2. The VM (the first time, its base image is built: a minute or so)"
if anka -j show "$VM" >/dev/null; then
  echo "VM $VM exists already"
else
  anka create -m 1G "$VM"
fi
anka start "$VM"
case $(anka -j modify "$VM" add port-forwarding -g 22 "$RULE" || true) in
  *'"code":0'*) echo "rule $RULE is added" ;;
  *'"code":8'*) echo "rule $RULE is there already" ;;
  *) anka modify "$VM" add port-forwarding -g 22 "$RULE" ;; # tells what is wrong, and ends here
esac

say "3. A machine outside (network namespace $OUT)"
remove_outside
ip netns add "$OUT"
ip link add ankademo0 type veth peer name eth0 netns "$OUT"
ip addr add $HOST_IP/30 dev ankademo0
ip link set ankademo0 up
ip -n "$OUT" addr add $OUT_IP/30 dev eth0
ip -n "$OUT" link set eth0 up
ip -n "$OUT" link set lo up
ip netns exec "$OUT" node -e '
  require("http").createServer((q, r) => r.end("greetings from outside to " + q.socket.remoteAddress + "\n")).listen(8000, () => console.log("serving"))' >"$answers" &
server=$!
until grep -q serving "$answers"; do sleep 0.1; done
echo "$OUT_IP serves HTTP on port 8000"

say "4. anka show $VM"
anka run -N "$VM" true
anka show "$VM"

say "5. ssh anka@… with password admin"
askpass=$(mktemp)
printf '#!/bin/sh\necho admin\n' >"$askpass"
chmod 700 "$askpass"
login() { SSH_ASKPASS=$askpass SSH_ASKPASS_REQUIRE=force "$@" -o PubkeyAuthentication=no -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR 'echo "  I am $(whoami) on $(uname -sr), reached as ${SSH_CONNECTION}"'; }
ip=$(anka show "$VM" ip)
port=$(anka -j show "$VM" | sed 's/.*"guest_port":22,"host_port":\([0-9]*\).*/\1/')
echo "from this host:  ssh anka@$ip"
login ssh "anka@$ip"
echo "from outside:    ssh anka@$HOST_IP -p $port"
login ip netns exec "$OUT" ssh "anka@$HOST_IP" -p "$port"
rm -f "$askpass"

say "6. The other way: the VM downloads from outside"
got=$(anka run "$VM" curl -sS -m 30 "http://$OUT_IP:8000/")
echo "  $got"
case $got in *"from outside"*) ;; *) echo "the download failed"; exit 1 ;; esac

say "It works. Try:"
echo "  node dist/cli/main.js ssh $VM        (or 'npm install -g .', and then: anka ssh $VM)"
echo "  npm run demo -- --clean              removes every trace"
