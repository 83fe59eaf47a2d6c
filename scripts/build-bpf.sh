#!/usr/bin/env bash
# Compiles bpf/*.bpf.c to assets/bpf/*.bpf.o, or into the directory $1.
# The objects are committed, so that users and tests need no compiler. test/kernel/bpf-objects.test.ts compares them
# with their sources. Debian packages: clang, libbpf-dev. Without -g and idents the objects contain no DWARF, BTF, paths
# or compiler version.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-assets/bpf}
mkdir -p "$out"
for source in bpf/*.bpf.c; do
  # v2: the instruction set of Linux 4.14, which every supported kernel has
  clang -std=gnu11 -O2 -mcpu=v2 -target bpfel -fno-ident -fno-addrsig -Wall -Wextra -Werror "-I/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$out/$(basename "${source%.c}").o"
done
# only the same compiler reproduces the objects byte by byte
clang -dumpversion >"$out/clang-version"
