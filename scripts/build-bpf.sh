#!/usr/bin/env bash
# Compiles bpf/*.bpf.c to assets/bpf/*.bpf.o, or into the folder $1.
# The objects are committed, so that neither users nor tests need a compiler; test/kernel/bpf-objects.test.ts compares them with their sources.
# Debian packages: clang, libbpf-dev. Without -g there is neither DWARF nor BTF, so no path of this machine; without idents no version of the compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-assets/bpf}
mkdir -p "$out"
for source in bpf/*.bpf.c; do
  # v2: the instructions of Linux 4.14, in every kernel that we load into
  clang -std=gnu11 -O2 -mcpu=v2 -target bpfel -fno-ident -fno-addrsig -Wall -Wextra -Werror "-I/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$out/$(basename "${source%.c}").o"
done
# the same compiler makes the same bytes, another need not
clang -dumpversion >"$out/clang-version"
