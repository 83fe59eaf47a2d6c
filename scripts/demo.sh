#!/usr/bin/env bash
# From an empty machine to a running VM, with ssh from this host and from outside.
#   demo.sh           runs the demo; it can be repeated
#   demo.sh --clean   removes the demo
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
VM=demo
OUT=anka-demo           # a network namespace that stands for a machine outside
OUT_IP=198.18.77.2      # 198.18.0.0/15 is reserved for benchmarks (RFC 2544)
HOST_IP=198.18.77.1
RULE=ssh
anka() { node dist/cli/main.js "$@"; }
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
answers=$(mktemp)
trap 'rm -f "$answers"; [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true' EXIT

if [ "$(id -u)" != 0 ]; then
  echo "The demo creates network interfaces and requires root. Run:"
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
      echo "Other VMs exist: their networks, the daemon and /var/lib/anka are kept."
      anka list
    fi
  fi
  echo "The demo is removed. Installed Debian packages, node_modules and dist are kept."
  exit 0
fi

say "1. Install and build"
bash scripts/setup.sh --demo
node scripts/build.mjs
echo "anka $(anka version | cut -d' ' -f3) is built"

say "2. Start a VM (the first run builds its base image, which takes a minute)"
if anka -j show "$VM" >/dev/null; then
  echo "VM $VM already exists"
else
  anka create -m 1G "$VM"
fi
anka start "$VM"
case $(anka -j modify "$VM" add port-forwarding -g 22 "$RULE" || true) in
  *'"code":0'*) echo "rule $RULE added" ;;
  *'"code":8'*) echo "rule $RULE already exists" ;;
  *) anka modify "$VM" add port-forwarding -g 22 "$RULE" ;; # prints the error, and exits
esac

say "3. Start a machine outside (network namespace $OUT)"
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

say "5. Log in by ssh (user anka, password admin)"
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

say "6. Download from outside, in the VM"
got=$(anka run "$VM" curl -sS -m 30 "http://$OUT_IP:8000/")
echo "  $got"
case $got in *"from outside"*) ;; *) echo "The download failed: http://$OUT_IP:8000/ is not reached from VM $VM. Run: anka doctor"; exit 1 ;; esac

say "The demo works. Next:"
echo "  node dist/cli/main.js ssh $VM        (or 'npm install -g .', and then: anka ssh $VM)"
echo "  npm run demo -- --clean              removes the demo"
