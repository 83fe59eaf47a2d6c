#!/bin/busybox sh
# Loads the virtio modules in the given order, mounts the root disk, and runs its init.
b=/bin/busybox
$b mount -t proc p /proc
$b mount -t devtmpfs d /dev
while read -r m; do $b insmod /lib/mods/$m; done </lib/mods/order
root=/dev/vda
i=0
while [ ! -b $root ] && [ $i -lt 200 ]; do
  $b usleep 50000
  i=$((i + 1))
done
$b mount -t ext4 -o rw,noatime $root /mnt || exec $b sh
$b mount --move /dev /mnt/dev
$b umount /proc
exec $b switch_root /mnt /sbin/init
