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
chown -R 501:20 /home/anka /usr/local/bin
echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range
hostname anka-vm
ip link set lo up
dropbear -R -B -P /run/dropbear.pid 2>/dev/null
# A file per interface holds the pid of its DHCP client, another the last carrier (x: none yet).
stop_client() {
  [ -s /run/dhcp."$1" ] && kill "$(cat /run/dhcp."$1")" 2>/dev/null
  : >/run/dhcp."$1"
}
link-events | while read -r event i carrier; do
  case "$event" in
    new)
      echo x >/run/carrier."$i"
      ip link set "$i" up
      ;;
    carrier)
      echo "carrier $i $(cat /run/carrier."$i")->$carrier" >/dev/console
      echo "$carrier" >/run/carrier."$i"
      stop_client "$i"
      if [ "$carrier" = 1 ]; then
        udhcpc -f -S -s /usr/share/udhcpc/default.script -i "$i" -t 4 -T 1 -A 2 -x hostname:"$(hostname)" >/dev/null 2>&1 &
        echo $! >/run/dhcp."$i"
      else ip -4 addr flush dev "$i"; fi
      ;;
    del)
      stop_client "$i"
      echo "card $i was removed" >/dev/console
      ;;
  esac
done &
# The power button sends an input event. Any input event powers the guest off.
for e in /dev/input/event*; do (head -c 24 "$e" >/dev/null && poweroff -f) & done
echo "TINY GUEST READY" >/dev/console
while :; do
  setsid cttyhack sh
  sleep 1
done
