#!/usr/bin/env bash
# Installs missing Debian packages, which it prints first, and npm packages.
#   setup.sh --demo   the packages that anka requires
#   setup.sh --test   and those that the tests require
#   setup.sh --bench  and those that the benchmarks compare with, of which today's releases are unpacked below .cache
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
run=(qemu-system-x86 qemu-utils iproute2 nftables mmdebstrap uidmap e2fsprogs cpio kmod busybox-static openssh-client procps dosfstools mtools)
peers=(curl iperf3 ethtool udhcpc isc-dhcp-client bind9-dnsutils tshark dnsmasq-base python3-minimal iputils-ping iptables tcpdump mandoc librsvg2-bin gcc libc6-dev zsh fish syslinux)
want=("${run[@]}")
[ "${1:-}" = --demo ] || want+=("${peers[@]}")
[ "${1:-}" = --bench ] && want+=(passt slirp4netns strace)
missing=()
for p in "${want[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  command="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    echo "Missing Debian packages: ${missing[*]}"
    echo "Run as root:  apt-get update && $command"
    [ "${1:-}" = --test ] || exit 1
    echo "Tests that require them are skipped."
  else
    echo "Installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    $command >/dev/null
  fi
fi
if [ "${1:-}" = --test ]; then scripts/dns-peers.sh || echo "Tests that require them are skipped."; fi
if [ "${1:-}" = --bench ]; then scripts/bench-peers.sh || echo "The benchmarks compare with what is installed."; fi
if [ ! -d node_modules ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  echo "Installing npm packages"
  npm ci --no-audit --no-fund --loglevel=error
fi
