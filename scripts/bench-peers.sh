#!/usr/bin/env bash
# Unpacks today's releases of the programs that the benchmarks compare with below .cache/bench-peers, from Debian's
# development suite and with their own libraries. Nothing is installed: the host keeps its own versions.
#   bench-peers.sh          afterwards .cache/bench-peers/bin has passt, slirp4netns and gvproxy
#   SUITE=trixie ...        another suite; a directory that exists already stays
# The mirror is that of the host's own package sources.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=(passt slirp4netns gvproxy)
libraries=(libc6 libgcc-s1 libatomic1 libslirp0 libglib2.0-0t64 libpcre2-8-0 zlib1g libcap2 libseccomp2 libffi8 libmount1 libblkid1 libselinux1)
suite=${SUITE:-sid}
target=$PWD/.cache/bench-peers
if [ -e "$target" ]; then exit 0; fi
if [ "$(dpkg --print-architecture)" != amd64 ]; then
  echo "Today's ${programs[*]} are unpacked on amd64 only: the benchmarks compare with what is installed."
  exit 0
fi
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/\?$' || true)
if [ -z "$mirror" ]; then
  echo "No Debian mirror in the package sources: the benchmarks compare with what is installed."
  exit 0
fi
mkdir -p .cache
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/peers/bin"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/apt/sources.list"
apt=(apt-get -q -o APT::Sandbox::User="$(id -un)" -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt" -o Dir::Cache::archives="$work/apt/archives")
echo "Unpacking for benchmarks, from $suite: ${programs[*]}"
"${apt[@]}" update >/dev/null
(cd "$work/apt/archives" && "${apt[@]}" download "${programs[@]}" "${libraries[@]}" >/dev/null)
for archive in "$work"/apt/archives/*.deb; do dpkg -x "$archive" "$work/peers/root"; done

# the variant for this processor, as passt would choose it if it were not started by another loader
variant() {
  local file
  for file in "$work"/peers/root/usr/{bin,sbin,libexec/podman,lib/podman}/"$1"{.avx2,}; do
    [ -f "$file" ] && [ -x "$file" ] || continue
    case $file in *.avx2) grep -qw avx2 /proc/cpuinfo || continue ;; esac
    echo "${file#"$work/peers"}"
    return
  done
  echo "the packages have no $1" >&2
  return 1
}
loader=root/usr/lib64/ld-linux-x86-64.so.2
[ -e "$work/peers/$loader" ] || loader=root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
for p in "${programs[@]}"; do
  file=$(variant "$p")
  {
    echo '#!/bin/sh'
    printf 'exec %q --library-path %q %q "$@"\n' "$target/$loader" "$target/root/usr/lib/x86_64-linux-gnu" "$target$file"
  } >"$work/peers/bin/$p"
  chmod 755 "$work/peers/bin/$p"
done
chmod -R go+rX "$work/peers"
mv "$work/peers" "$target"
