#!/bin/sh
# Builds the tests' tiny guest in directory $1: Debian's cloud kernel, an initrd of a few megabytes with busybox,
# dropbear and sshfs, and an empty disk. $2 names another kernel package; the cloud kernel has no e1000 driver.
# Needs no root. Packages are downloaded from the host's apt sources, and not installed.
set -eu
export PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(realpath "$0")")
mkdir -p "$1"
out=$(realpath "$1")
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/deb" "$work/x" "$work/r"
cd "$work/deb"
kernel=$(apt-cache depends "${2:-linux-image-cloud-amd64}" | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
apt-get -q download "$kernel" busybox-static dropbear-bin libtomcrypt1 libtommath1 libgmp10 zlib1g libcrypt1 libc6 sshfs libfuse3-3 libglib2.0-0 libpcre2-8-0 >/dev/null
for d in *.deb; do dpkg-deb -x "$d" "$work/x"; done
x=$work/x
r=$work/r
version=$(ls "$x/lib/modules")
depmod -b "$x" "$version"
for d in bin sbin usr/bin usr/sbin etc/dropbear proc sys dev run tmp root home/anka/.ssh lib/mods var/log usr/share/udhcpc lib64 lib/x86_64-linux-gnu; do mkdir -p "$r/$d"; done
cp "$(find "$x" -path '*bin/busybox' | head -1)" "$r/bin/busybox"
chmod 4755 "$r/bin/busybox" # setuid: user anka may ping
cp "$x/usr/sbin/dropbear" "$r/usr/sbin/"
copy_libraries() {
  for l in $(objdump -p "$1" | awk '/NEEDED/{print $2}'); do
    f=$(find "$x/lib" "$x/usr/lib" -name "$l" 2>/dev/null | head -1)
    if [ -n "$f" ] && [ ! -e "$r/lib/x86_64-linux-gnu/$l" ]; then
      cp -L "$f" "$r/lib/x86_64-linux-gnu/$l"
      copy_libraries "$f"
    fi
  done
}
copy_libraries "$r/usr/sbin/dropbear"
cp "$x/usr/bin/sshfs" "$r/usr/bin/"
copy_libraries "$r/usr/bin/sshfs"
cp -L "$x/lib64/ld-linux-x86-64.so.2" "$r/lib64/"
: >"$r/lib/mods/order"
for m in virtio_pci virtio_net virtio_blk virtio_rng button evdev pciehp e1000 fuse; do
  modprobe -d "$x" -S "$version" --show-depends "$m" 2>/dev/null | awk '/^insmod/{print $2}' | while read -r f; do
    b=$(basename "$f")
    grep -qx "$b" "$r/lib/mods/order" || { echo "$b" >>"$r/lib/mods/order"; cp "$f" "$r/lib/mods/$b"; }
  done
done
printf 'root:x:0:0:root:/root:/bin/sh\nanka:x:501:20:anka:/home/anka:/bin/sh\n' >"$r/etc/passwd"
printf 'root:*:19000:0:99999:7:::\nanka:%s:19000:0:99999:7:::\n' "$(openssl passwd -6 -salt ankaanka admin)" >"$r/etc/shadow"
chmod 600 "$r/etc/shadow"
printf 'root:x:0:\nstaff:x:20:anka\n' >"$r/etc/group"
echo /bin/sh >"$r/etc/shells"
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' >"$r/etc/nsswitch.conf"
[ -e "$out/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C anka -f "$out/id_ed25519"
cp "$out/id_ed25519.pub" "$r/home/anka/.ssh/authorized_keys"
cat >"$r/usr/share/udhcpc/default.script" <<'S'
#!/bin/sh
case "$1" in
deconfig) ip -4 addr flush dev $interface; ip link set $interface up ;;
bound | renew)
  ip -4 addr flush dev $interface
  ip addr add $ip/${mask:-24} dev $interface
  for g in $router; do ip route replace default via $g dev $interface; break; done
  : >/etc/resolv.conf
  for d in $dns; do echo "nameserver $d" >>/etc/resolv.conf; done
  echo "udhcpc: $1 $ip" >/dev/console
  ;;
esac
S
chmod +x "$r/usr/share/udhcpc/default.script"
cc -O2 -Wall -Wextra -Werror -static -o "$r/bin/link-events" "$here/link-events.c"
cc -O2 -Wall -Wextra -Werror -static -o "$r/bin/sudo" "$here/sudo.c"
chmod 4755 "$r/bin/sudo"
cp "$here/init.sh" "$r/init"
chmod 755 "$r/init"
# What clients of Anka expect of a guest: bash, /usr/local/bin that its user may write, macOS's name of /tmp.
printf '#!/bin/sh\nexec sh "$@"\n' >"$r/bin/bash"
chmod 755 "$r/bin/bash"
mkdir -p "$r/usr/local/bin" "$r/private"
ln -s ../tmp "$r/private/tmp"
# One host key for the image: creating a key at each boot takes seconds under emulation.
LD_LIBRARY_PATH=$x/usr/lib/x86_64-linux-gnu:$x/lib/x86_64-linux-gnu "$x/usr/bin/dropbearkey" -t ed25519 -f "$r/etc/dropbear/dropbear_ed25519_host_key" >/dev/null 2>&1
cp -L "$x/boot/vmlinuz-$version" "$out/vmlinuz"
(cd "$r" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -6) >"$out/initrd.img"
qemu-img create -q -f qcow2 "$out/disk.qcow2" 16M
chmod 644 "$out"/vmlinuz "$out"/initrd.img "$out"/disk.qcow2
chmod 755 "$out"
printf '{"version":1,"disk":"disk.qcow2","kernel":"vmlinuz","initrd":"initrd.img","append":"console=ttyS0 quiet loglevel=3 net.ifnames=0","identityFile":"id_ed25519"}' >"$out/base.json"
