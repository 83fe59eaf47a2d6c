#!/bin/sh
# Turns the plain Debian tree $1 into the built-in guest: user anka (password admin), sudo, ssh, DHCP on every
# Ethernet card, a serial console. $2: public ssh key of user anka, in addition to the password.
set -e
R=$1
KEY=$2
echo anka-vm >"$R/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 anka-vm\n::1 localhost ip6-localhost\n' >"$R/etc/hosts"
chroot "$R" useradd -m -u 501 -g staff -G sudo -s /bin/bash -c Anka anka
printf 'anka:admin\n' | chroot "$R" chpasswd
echo 'anka ALL=(ALL) NOPASSWD:ALL' >"$R/etc/sudoers.d/anka"
chmod 440 "$R/etc/sudoers.d/anka"
mkdir -p "$R/home/anka/.ssh"
printf '%s\n' "$KEY" >"$R/home/anka/.ssh/authorized_keys"
chmod 700 "$R/home/anka/.ssh"
chmod 600 "$R/home/anka/.ssh/authorized_keys"
chroot "$R" chown -R anka:staff /home/anka/.ssh
# as on Anka's guests: user anka installs programs, and the name that macOS has for /tmp works
chroot "$R" chown -R root:staff /usr/local
chroot "$R" chmod -R g+w /usr/local
mkdir -p "$R/private"
ln -sfn ../tmp "$R/private/tmp"
mkdir -p "$R/etc/systemd/network"
cat >"$R/etc/systemd/network/80-dhcp.network" <<'N'
[Match]
Name=e*

[Network]
DHCP=yes
LinkLocalAddressing=ipv6
IPv6AcceptRA=yes

[DHCPv4]
UseMTU=yes

[Link]
RequiredForOnline=no
N
# Host keys are created at the first boot, so that no two VMs share them.
rm -f "$R"/etc/ssh/ssh_host_*
cat >"$R/etc/systemd/system/ssh-host-keys.service" <<'N'
[Unit]
Description=Make this machine's ssh host keys
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
N
printf 'PasswordAuthentication yes\nUseDNS no\nHostKey /etc/ssh/ssh_host_ed25519_key\n' >"$R/etc/ssh/sshd_config.d/anka.conf"
chroot "$R" systemctl -q enable systemd-networkd systemd-resolved ssh ssh-host-keys serial-getty@ttyS0
chroot "$R" systemctl -q mask systemd-networkd-wait-online.service e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer systemd-update-utmp.service systemd-firstboot.service
# The disk is thin, of the requested size; the file system grows to it at every boot.
echo '/dev/vda / ext4 rw,relatime,x-systemd.growfs 0 0' >"$R/etc/fstab"
printf 'button\nevdev\n' >"$R/etc/modules-load.d/power-button.conf"
: >"$R/etc/machine-id"
rm -rf "$R"/var/cache/apt/*.bin "$R"/var/lib/apt/lists/* "$R"/usr/share/doc/* "$R"/usr/share/man/* "$R"/usr/share/locale/*
