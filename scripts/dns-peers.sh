#!/usr/bin/env bash
# Unpacks DNS programs below .cache/dns-peers, as peers for the tests: a resolver, a stub resolver, a load generator.
# They are not installed, so none of them starts by itself or takes over this host's name resolution.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(unbound systemd-resolved dnsperf)
target=.cache/dns-peers
if [ -e "$target" ]; then exit 0; fi
if [ "$(id -u)" != 0 ]; then
  echo "Root can unpack ${packages[*]} for tests: tests that require them are skipped."
  exit 0
fi
mkdir -p .cache
work=$(mktemp -d "$PWD/.cache/dns-peers.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/archives/partial" "$work/root"
echo "Unpacking for tests: ${packages[*]}"
apt-get install -y --download-only --no-install-recommends -o APT::Sandbox::User=root -o Dir::Cache::archives="$work/archives" "${packages[@]}" >/dev/null
for archive in "$work"/archives/*.deb; do dpkg -x "$archive" "$work/root"; done
chmod 755 "$work/root"
mv "$work/root" "$target"
