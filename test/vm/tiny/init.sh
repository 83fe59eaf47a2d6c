#!/bin/busybox sh
# Init of the tiny guest: runs udhcpc on each card with a carrier, dropbear for ssh, a shell on the serial console, and
# powers off on the ACPI button.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts -o gid=5,mode=620
while read -r m; do insmod /lib/mods/"$m" 2>/dev/null; done </lib/mods/order
chmod 1777 /tmp
chown -R 501:20 /home/anka
echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range
hostname anka-vm
ip link set lo up
dropbear -R -B -P /run/dropbear.pid 2>/dev/null
watch_card() {
  i=$1
  last=x
  pid=
  while [ -d /sys/class/net/"$i" ]; do
    c=$(cat /sys/class/net/"$i"/carrier 2>/dev/null || echo 0)
    if [ "$c" != "$last" ]; then
      echo "carrier $i $last->$c" >/dev/console
      [ -n "$pid" ] && kill "$pid" 2>/dev/null
      pid=
      if [ "$c" = 1 ]; then
        udhcpc -f -S -s /usr/share/udhcpc/default.script -i "$i" -t 4 -T 1 -A 2 -x hostname:"$(hostname)" >/dev/null 2>&1 &
        pid=$!
      else ip -4 addr flush dev "$i"; fi
      last=$c
    fi
    sleep 0.2
  done
  [ -n "$pid" ] && kill "$pid" 2>/dev/null
  echo "card $i was removed" >/dev/console
}
(
  seen=" "
  while :; do
    for p in /sys/class/net/eth*; do
      i=${p##*/}
      [ -d "$p" ] || continue
      n=$i:$(cat "$p"/ifindex)
      case "$seen" in *" $n "*) ;; *)
        seen="$seen$n "
        ip link set "$i" up
        watch_card "$i" &
        ;;
      esac
    done
    sleep 0.3
  done
) &
# The power button sends an input event. Any input event powers the guest off.
for e in /dev/input/event*; do (head -c 24 "$e" >/dev/null && poweroff -f) & done
echo "TINY GUEST READY" >/dev/console
while :; do
  setsid cttyhack sh
  sleep 1
done
